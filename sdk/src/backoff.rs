use std::time::Duration;

use rand::RngExt;

/// How long to wait between attempts to connect: doubling from `shortest` up to `longest`, each time a random part of it, so
/// that many controllers do not come back in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
}

/// Bounds that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "back-off from {shortest:?} to {longest:?}: the shortest must be at least 1ms and not above the longest, \
     the longest at most 1h"
)]
pub struct InvalidBackoff {
    shortest: Duration,
    longest: Duration,
}

impl Backoff {
    /// Bounds of the wait.
    ///
    /// # Errors
    ///
    /// When `shortest` is under 1 ms or above `longest`, or `longest` is over an hour.
    pub const fn new(shortest: Duration, longest: Duration) -> Result<Self, InvalidBackoff> {
        let millis = (shortest.as_millis(), longest.as_millis());
        if millis.0 == 0 || shortest.as_nanos() > longest.as_nanos() || millis.1 > 3_600_000 {
            return Err(InvalidBackoff { shortest, longest });
        }
        Ok(Self { shortest, longest })
    }

    /// The wait before attempt number `attempt` (0 is the first repetition): at least half of what is due, at most all of it.
    pub(crate) fn wait(self, attempt: u32) -> Duration {
        let due = self.shortest.saturating_mul(1 << attempt.min(24)).min(self.longest);
        rand::rng().random_range(due / 2..=due)
    }

    /// The wait after a refusal that only a person can lift.
    pub(crate) fn longest_wait(self) -> Duration {
        rand::rng().random_range(self.longest / 2..=self.longest)
    }

    pub(crate) const fn longest(self) -> Duration {
        self.longest
    }
}

impl Default for Backoff {
    /// From 100 ms to 15 s.
    fn default() -> Self {
        Self { shortest: Duration::from_millis(100), longest: Duration::from_secs(15) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_that_make_no_sense_cannot_be_made() {
        let ms = Duration::from_millis;
        assert!(Backoff::new(ms(0), ms(10)).is_err());
        assert!(Backoff::new(ms(11), ms(10)).is_err());
        assert!(Backoff::new(ms(1), Duration::from_secs(3601)).is_err());
        assert!(Backoff::new(ms(10), ms(10)).is_ok());
    }

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let backoff = Backoff::default();
        for attempt in 0..100 {
            let due = Duration::from_millis(100).saturating_mul(1 << attempt.min(20)).min(backoff.longest);
            for _ in 0..20 {
                let wait = backoff.wait(attempt);
                assert!(due / 2 <= wait && wait <= due, "attempt {attempt}: {wait:?} of {due:?}");
            }
        }
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::HashSet<_> = (0..50).map(|_| Backoff::default().wait(9)).collect();
        assert!(waits.len() > 10);
    }
}
