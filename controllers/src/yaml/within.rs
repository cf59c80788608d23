use std::time::SystemTime;

use jiff::{
    Timestamp,
    civil::{Time, Weekday},
    tz::TimeZone,
};

/// A window of the week, by the clocks of one time zone.
///
/// It begins at `from` and ends just before `to`. One that runs over midnight belongs to the day it begins on. Local time
/// decides: an hour that a change of the clocks repeats counts both times, one that it skips does not come.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) days: Days,
    pub(super) from: Time,
    /// `None`: the end of the day.
    pub(super) to: Option<Time>,
    pub(super) zone: TimeZone,
    /// As written, for messages.
    pub(super) text: Box<str>,
}

/// Days of the week, Monday first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Days([bool; 7]);

pub(super) const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Window {
    pub(super) fn holds(&self, time: SystemTime) -> bool {
        let Ok(timestamp) = Timestamp::try_from(time) else { return false };
        let local = self.zone.to_datetime(timestamp);
        let (today, now) = (local.weekday(), local.time());
        match self.to {
            None => self.days.has(today) && now >= self.from,
            Some(to) if self.from < to => self.days.has(today) && self.from <= now && now < to,
            Some(to) => (self.days.has(today) && now >= self.from) || (self.days.has(today.previous()) && now < to),
        }
    }
}

impl Days {
    pub(super) const ALL: Self = Self([true; 7]);
    pub(super) const NONE: Self = Self([false; 7]);

    /// Adds a day (`mon`) or a range (`mon-fri`; `sat-mon` runs over Sunday). `None` when it is neither.
    pub(super) fn with(mut self, text: &str) -> Option<Self> {
        let index = |name: &str| DAY_NAMES.iter().position(|day| *day == name);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (index(first)?, index(last)?),
            None => (index(text)?, index(text)?),
        };
        for step in 0..=(last + 7 - first) % 7 {
            self.0[(first + step) % 7] = true;
        }
        Some(self)
    }

    fn has(self, day: Weekday) -> bool {
        self.0[day.to_monday_zero_offset() as usize]
    }
}

/// `HH:MM`; `24:00`, the end of the day, is `Some(None)`.
pub(super) fn time_of_day(text: &str) -> Option<Option<Time>> {
    let (hour, minute) = text.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        return None;
    }
    match (hour.parse().ok()?, minute.parse().ok()?) {
        (24, 0) => Some(None),
        (hour, minute) => Time::new(hour, minute, 0, 0).ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[&str], from: &str, to: &str, zone: &str) -> Window {
        Window {
            days: days.iter().fold(Days::NONE, |days, day| days.with(day).unwrap()),
            from: time_of_day(from).unwrap().unwrap(),
            to: time_of_day(to).unwrap(),
            zone: TimeZone::get(zone).unwrap(),
            text: "".into(),
        }
    }

    fn at(time: &str) -> SystemTime {
        time.parse::<Timestamp>().unwrap().into()
    }

    #[track_caller]
    fn check(window: &Window, expected: &[(&str, bool)]) {
        for (time, inside) in expected {
            assert_eq!(window.holds(at(time)), *inside, "{time}");
        }
    }

    #[test]
    fn a_window_begins_with_from_and_ends_before_to() {
        // 2026-11-20 is a Friday; Berlin is at +01:00.
        check(
            &window(&["mon-fri"], "08:00", "18:00", "Europe/Berlin"),
            &[
                ("2026-11-20T06:59:59Z", false),
                ("2026-11-20T07:00:00Z", true),
                ("2026-11-20T16:59:59.999Z", true),
                ("2026-11-20T17:00:00Z", false),
                ("2026-11-21T10:00:00Z", false),
            ],
        );
    }

    #[test]
    fn over_midnight_it_belongs_to_the_day_it_begins_on() {
        check(
            &window(&["fri"], "22:00", "06:00", "UTC"),
            &[
                ("2026-11-20T05:00:00Z", false),
                ("2026-11-20T21:59:59Z", false),
                ("2026-11-20T22:00:00Z", true),
                ("2026-11-21T05:59:59Z", true),
                ("2026-11-21T06:00:00Z", false),
                ("2026-11-21T23:00:00Z", false),
            ],
        );
    }

    #[test]
    fn the_day_may_end_at_24() {
        check(
            &window(&["sun"], "12:00", "24:00", "UTC"),
            &[("2026-11-22T23:59:59Z", true), ("2026-11-23T00:00:00Z", false)],
        );
    }

    #[test]
    fn it_follows_the_clocks_of_its_zone_through_summer_and_winter() {
        // 2026-03-29 02:00 → 03:00 and 2026-10-25 03:00 → 02:00 in Berlin, both Sundays.
        let night = window(&["sun"], "02:00", "03:00", "Europe/Berlin");
        check(
            &night,
            &[
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", false),
                ("2026-10-25T00:30:00Z", true),
                ("2026-10-25T01:30:00Z", true),
                ("2026-10-25T02:00:00Z", false),
            ],
        );
        let office = window(&["mon"], "08:00", "18:00", "Europe/Berlin");
        check(&office, &[("2026-03-30T06:00:00Z", true), ("2026-03-30T16:00:00Z", false)]);
        check(&office, &[("2026-10-26T06:30:00Z", false), ("2026-10-26T16:30:00Z", true)]);
    }

    #[test]
    fn ranges_of_days_may_run_over_sunday() {
        let days = Days::NONE.with("sat-mon").unwrap();
        assert_eq!(days, Days([true, false, false, false, false, true, true]));
        assert_eq!(Days::NONE.with("mon-sun"), Some(Days::ALL));
        assert!(
            Days::NONE.with("monday").is_none() && Days::NONE.with("").is_none() && Days::NONE.with("mon-").is_none()
        );
    }

    #[test]
    fn times_are_written_in_four_digits() {
        for text in ["8:00", "08:60", "25:00", "24:01", "0800", "08:00:00", "+8:00", "", "ab:cd"] {
            assert!(time_of_day(text).is_none(), "{text}");
        }
    }
}
