//! Lengths of time, as people write them.

use std::{ops::RangeInclusive, time::Duration};

use jobgate_yaml::{Fields, Node};

use super::load::Loader;

/// How a length of time is written.
const WRITTEN: &str = "as `500ms`, `2s`, `10m`, `1h`, `30d`";

impl Loader<'_, '_> {
    /// A length of time that may be left out; more than nothing.
    pub(super) fn span_or(
        &self,
        fields: &mut Fields<'_, '_, '_>,
        key: &'static str,
        seconds: u64,
        most: Duration,
    ) -> Option<Duration> {
        fields.take(key).map_or(Some(Duration::from_secs(seconds)), |node| self.span(node, most))
    }

    /// A length of time: `500ms`, `2s`, `10m`, `1h`, `30d`; more than nothing.
    pub(super) fn span(&self, node: &Node, most: Duration) -> Option<Duration> {
        self.span_within(node, Duration::from_millis(1)..=most)
    }

    /// A length of time within these.
    pub(super) fn span_within(&self, node: &Node, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.reader.string(node)?;
        let Some(span) = parse(text) else {
            self.reader.fault_with_help(node.place, format!("`{text}` is not a length of time"), WRITTEN);
            return None;
        };
        if !range.contains(&span) {
            let help = format!("from `{}` to `{}`", written(*range.start()), written(*range.end()));
            self.reader.fault_with_help(node.place, format!("`{text}` is out of range"), help);
            return None;
        }
        Some(span)
    }
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = match &text[digits..] {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// In the largest unit that says it exactly.
fn written(span: Duration) -> String {
    let seconds = span.as_secs();
    if span.subsec_millis() > 0 {
        return format!("{}ms", span.as_millis());
    }
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    match units.into_iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["1ms", "500ms", "0s", "2s", "90s", "10m", "25h", "1h", "30d", "3650d"] {
            assert_eq!(written(parse(text).unwrap()), text);
        }
        assert_eq!(written(parse("720h").unwrap()), "30d");
        for bad in ["", "5", "d", "1.5h", "-1s", "1w", "1 h", "99999999999999999999s", "999999999999999999d"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
