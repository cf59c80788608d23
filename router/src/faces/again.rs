//! Polling again at once what wakes itself.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// So often in a row; then others have their turn.
const IN_A_ROW: usize = 8;

/// It is being polled: who wakes it now is heard when that is over.
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// A future that is polled again at once when it was woken meanwhile.
///
/// A connection does that to itself: whoever reads the body of a request in the connection's own task tells it so by waking it.
/// Tokio puts such a task at the end of its queue and wakes another thread that could take it over, which costs more than
/// everything else that a poll without a job does.
pub(super) struct Again<F> {
    inner: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    /// Who polls us.
    task: AtomicWaker,
}

impl<F> Again<F> {
    pub(super) fn new(inner: F) -> Self {
        let wakes = Arc::<Wakes>::default();
        let waker = wakes.clone().into();
        Self { inner: Box::pin(inner), wakes, waker }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & POLLED == 0 {
            self.task.wake();
        }
    }
}

impl<F: Future> Future for Again<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, wakes, waker } = &mut *self;
        wakes.task.register(cx.waker());
        for _ in 0..IN_A_ROW {
            // What woke it before this is seen by the poll that follows.
            wakes.state.swap(POLLED, Ordering::AcqRel);
            if let Poll::Ready(output) = inner.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            // From here on whoever wakes it wakes the task.
            if wakes.state.compare_exchange(POLLED, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Poll::Pending;
            }
        }
        // Swapped, not stored: what woke it meanwhile must be seen by the next poll too.
        wakes.state.swap(0, Ordering::AcqRel);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, thread};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls once, as the task; says how often that woke the task.
    fn poll<F: Future>(again: &mut Again<F>) -> (Poll<F::Output>, usize) {
        let task = Arc::<Task>::default();
        let polled = Pin::new(again).poll(&mut Context::from_waker(&task.clone().into()));
        (polled, task.0.load(Ordering::SeqCst))
    }

    #[test]
    fn what_wakes_itself_gets_on_without_its_task() {
        let mut polls = 0;
        let mut again = Again::new(poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == IN_A_ROW { Poll::Ready(()) } else { Poll::Pending }
        }));
        assert_eq!(poll(&mut again), (Poll::Ready(()), 0));
    }

    #[test]
    fn what_wakes_itself_for_ever_lets_others_have_their_turn() {
        let mut polls = 0;
        let mut again = Again::new(poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        assert_eq!(poll(&mut again), (Poll::Pending, 1));
        assert_eq!(poll(&mut again), (Poll::Pending, 1));
        drop(again);
        assert_eq!(polls, 2 * IN_A_ROW);
    }

    #[test]
    fn woken_later_it_wakes_its_task_each_time() {
        let kept = Arc::new(AtomicWaker::new());
        let mut again = Again::new(poll_fn(|cx| {
            kept.register(cx.waker());
            Poll::<()>::Pending
        }));
        for _ in 0..3 {
            let task = Arc::<Task>::default();
            let polled = Pin::new(&mut again).poll(&mut Context::from_waker(&task.clone().into()));
            assert_eq!((polled, task.0.load(Ordering::SeqCst)), (Poll::Pending, 0));
            kept.wake();
            assert_eq!(task.0.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test]
    async fn no_wake_of_another_thread_is_lost() {
        const WAKES: usize = 20_000;
        let (given, kept) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicWaker::new()));
        let (count, waker) = (given.clone(), kept.clone());
        let (seen, mut heard) = (Arc::new(AtomicUsize::new(0)), 0);
        let told = seen.clone();
        let other = thread::spawn(move || {
            for number in 1..=WAKES {
                count.store(number, Ordering::SeqCst);
                waker.wake();
                // The next one when this one was seen: were one lost, nobody would get on.
                while told.load(Ordering::SeqCst) < number {
                    std::hint::spin_loop();
                }
            }
        });
        let listening = Again::new(poll_fn(|cx| {
            kept.register(cx.waker());
            let number = given.load(Ordering::SeqCst);
            if number > heard {
                heard = number;
                seen.store(number, Ordering::SeqCst);
            }
            if heard == WAKES { Poll::Ready(()) } else { Poll::Pending }
        }));
        tokio::time::timeout(std::time::Duration::from_secs(60), listening).await.expect("a wake was lost");
        other.join().unwrap();
    }
}
