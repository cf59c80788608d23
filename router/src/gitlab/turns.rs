//! Fairness between runner tokens: nobody's fleet takes all places, and those that wait have their turns token by token.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::tokens::TokenKey;

/// Open polls, by token: each has a place until it is answered.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<TokenKey, usize>>>);

/// A place; given back when dropped.
pub(crate) struct Place {
    places: Places,
    token: TokenKey,
}

impl Places {
    /// A place for one more poll of this token; `None` when it has so many already.
    pub(crate) fn take(&self, token: TokenKey, most: usize) -> Option<Place> {
        let mut open = self.open();
        let count = open.entry(token).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), token })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.open().values().sum()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<TokenKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open();
        if let Some(count) = open.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.token);
            }
        }
    }
}

/// A number of turns at once. Those who wait for one get it by token in a circle, so that a fleet of a thousand does not hold up a
/// single runner.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Mutex<Waiting>>);

struct Waiting {
    free: usize,
    queues: HashMap<TokenKey, VecDeque<oneshot::Sender<Turn>>>,
    /// Tokens that wait, next first.
    circle: VecDeque<TokenKey>,
}

/// A turn; passed on when dropped.
pub(crate) struct Turn(Option<Turns>);

impl Turns {
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(Waiting { free: at_once, queues: HashMap::new(), circle: VecDeque::new() })))
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self, token: TokenKey) -> Turn {
        let turn = {
            let mut waiting = self.waiting();
            if waiting.free > 0 {
                waiting.free -= 1;
                return Turn(Some(self.clone()));
            }
            let (sender, turn) = oneshot::channel();
            let queue = waiting.queues.entry(token).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                waiting.circle.push_back(token);
            }
            turn
        };
        // Nobody drops a sender without having sent, as long as there are turns.
        turn.await.unwrap_or(Turn(None))
    }

    fn pass_on(&self) {
        loop {
            let next = {
                let mut waiting = self.waiting();
                match waiting.next() {
                    Some(next) => next,
                    None => {
                        waiting.free += 1;
                        return;
                    }
                }
            };
            // One who does not wait any more gives it back: the next one, without going deeper.
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                Err(mut unused) => unused.0 = None,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let token = self.circle.pop_front()?;
        let queue = self.queues.get_mut(&token)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&token);
        } else {
            self.circle.push_back(token);
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::gitlab::tokens::Salt;

    fn token(name: &str) -> TokenKey {
        Salt::new([0; 16]).key(name)
    }

    #[test]
    fn a_token_has_so_many_places_and_no_more() {
        let places = Places::default();
        let first = places.take(token("a"), 2).unwrap();
        let _second = places.take(token("a"), 2).unwrap();
        assert!(places.take(token("a"), 2).is_none());
        let _other = places.take(token("b"), 2).unwrap();
        assert_eq!(places.len(), 3);
        drop(first);
        assert!(places.take(token("a"), 2).is_some());
    }

    #[tokio::test]
    async fn those_who_wait_have_their_turns_token_by_token() {
        let turns = Turns::new(1);
        let held = turns.take(token("a")).await;
        let mut many: Vec<_> = (0..3).map(|_| Box::pin(turns.take(token("a")))).collect();
        for one in &mut many {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let mut single = Box::pin(turns.take(token("b")));
        assert!(single.as_mut().now_or_never().is_none());
        drop(held);
        let first = many[0].as_mut().now_or_never().expect("the one who waited first");
        drop(first);
        let second = single.as_mut().now_or_never().expect("then another token's, however many wait before it");
        // One that does not wait any more is passed over.
        drop(many.remove(1));
        drop(second);
        assert!(many[1].as_mut().now_or_never().is_some());
        drop(many);
        assert_eq!(turns.waiting().free, 1);
    }
}
