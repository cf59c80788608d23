use std::time::Duration;

use rand::RngExt;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// The wait before attempt number `attempt` (0 is the first repetition): doubling, bounded, and each time a random part of
/// what is due, so that a fleet of runners does not come back in step.
pub(crate) fn wait(attempt: u32) -> Duration {
    let due = SHORTEST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
    rand::rng().random_range(due / 2..=due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        assert!((SHORTEST / 2..=SHORTEST).contains(&wait(0)));
        assert!((0..100).all(|attempt| wait(attempt) <= LONGEST));
        assert!(wait(u32::MAX) >= LONGEST / 2);
        let waits: std::collections::HashSet<_> = (0..50).map(|_| wait(9)).collect();
        assert!(waits.len() > 10);
    }
}
