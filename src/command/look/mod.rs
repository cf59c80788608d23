//! Looking at a router: jobs, decisions, controllers, runners, its queue.

mod controllers;
mod decisions;
mod follow;
mod jobs;
mod queue;
mod runners;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub(super) use controllers::Controllers;
pub(super) use decisions::Decisions;
pub(super) use follow::follow;
pub(super) use jobs::{Cancel, Jobs};
pub(super) use queue::Queue;
pub(super) use runners::Runners;

/// Hexadecimal digits of a fingerprint that are shown.
const DIGITS: usize = 12;

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A value as a cell of a table.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn age(time: &Value, now: Timestamp) -> String {
    let time = time.as_str().and_then(|time| time.parse::<Timestamp>().ok());
    time.map_or_else(String::new, |time| span(now.duration_since(time)))
}

/// In its two largest units at most.
fn span(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Enough of a fingerprint to tell it from others.
fn fingerprint(of: &Value) -> String {
    text(&of["fingerprint"]).chars().take(DIGITS).collect()
}

/// `group acme/platform`
fn kind(of: &Value) -> String {
    format!("{} {}", text(&of["type"]), text(&of["owner"])).trim_end().to_owned()
}

/// What a runner or a capability group offers, and what it wants.
fn offers(of: &Value) -> String {
    let mut offers = text(&of["tags"]);
    for (key, word) in [("run_untagged", "(untagged)"), ("protected", "(protected)")] {
        if of[key] == true {
            offers.push(' ');
            offers.push_str(word);
        }
    }
    offers.trim_start().to_owned()
}

/// A time that two events in a row can be told apart by.
fn moment(time: &Value) -> String {
    let said = text(time);
    said.parse::<Timestamp>().map_or(said, |time| format!("{time:.3}"))
}

/// A number of seconds; empty when there is none.
fn seconds(of: &Value) -> String {
    of.as_i64().map_or_else(String::new, |seconds| span(SignedDuration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let shown = |seconds| span(SignedDuration::from_secs(seconds));
        assert_eq!([-5, 59, 61, 7300, 90_000].map(shown), ["0s", "59s", "1m", "2h1m", "1d1h"]);
    }
}
