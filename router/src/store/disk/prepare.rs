//! The next segment is made ahead of need: filled with zeros, so that a commit changes no metadata and waits for one sync only,
//! and so that a full disk is known before a batch meets it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    medium::{Access, Medium, reason},
    segment::{FOLDER, header, name},
};
use crate::store::StoreError;

/// Zeros are written in pieces of this size, and synced piece by piece, so that commits on the same disk wait for little.
const PIECE: usize = 1 << 20;

/// How long until a segment that could not be made is tried again without being asked for.
const AGAIN: Duration = Duration::from_secs(5);

/// Makes segments; shared by the log, which takes them, and the thread that makes them.
#[derive(Debug)]
pub(super) struct Preparer {
    medium: Arc<dyn Medium>,
    mark: u64,
    segment_bytes: u64,
    /// Without a thread, segments are made when they are asked for.
    threaded: bool,
    next: Mutex<Next>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Next {
    number: u64,
    state: State,
    stopping: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Wanted,
    Ready,
    Failed(String),
}

impl Preparer {
    pub(super) fn new(medium: Arc<dyn Medium>, mark: u64, segment_bytes: u64, threaded: bool) -> Self {
        Self { medium, mark, segment_bytes, threaded, next: Mutex::default(), changed: Condvar::new() }
    }

    /// Asks for a segment.
    pub(super) fn request(&self, number: u64) {
        *self.lock() = Next { number, state: State::Wanted, stopping: false };
        self.changed.notify_all();
        if !self.threaded {
            self.make_wanted();
        }
    }

    /// Waits for the segment that was asked for.
    pub(super) fn take(&self, number: u64) -> Result<(), StoreError> {
        let mut next = self.lock();
        if let State::Failed(_) = next.state {
            next.state = State::Wanted;
            self.changed.notify_all();
        }
        loop {
            match &next.state {
                State::Ready => return Ok(()),
                State::Failed(why) => return Err(StoreError::new(why.clone())),
                State::Wanted if self.threaded && !next.stopping => {
                    next = self.changed.wait(next).unwrap_or_else(PoisonError::into_inner);
                }
                State::Wanted => {
                    debug_assert_eq!(next.number, number);
                    drop(next);
                    self.make_wanted();
                    next = self.lock();
                }
            }
        }
    }

    /// Makes segments until it is told to stop.
    pub(super) fn run(&self) {
        let mut next = self.lock();
        while !next.stopping {
            match next.state {
                State::Wanted => {
                    drop(next);
                    self.make_wanted();
                    next = self.lock();
                }
                State::Ready => next = self.changed.wait(next).unwrap_or_else(PoisonError::into_inner),
                State::Failed(_) => {
                    let waited = self.changed.wait_timeout(next, AGAIN).unwrap_or_else(PoisonError::into_inner);
                    next = waited.0;
                    if waited.1.timed_out() {
                        next.state = State::Wanted;
                    }
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    fn make_wanted(&self) {
        let number = self.lock().number;
        let state = match make(&*self.medium, number, self.mark, self.segment_bytes) {
            Ok(()) => State::Ready,
            Err(error) => {
                let file = self.medium.path(&name(number));
                let why = format!("{file}: the next segment of the log cannot be made: {}", reason(&error));
                tracing::error!("{why}");
                State::Failed(why)
            }
        };
        let mut next = self.lock();
        if next.number == number {
            next.state = state;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a segment, unless it is there: under another name first, so that it is there completely or not at all.
pub(super) fn make(medium: &dyn Medium, number: u64, mark: u64, bytes: u64) -> io::Result<()> {
    let file = name(number);
    match medium.open(&file, Access::Read) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let draft = format!("{file}.new");
    let made = medium.open(&draft, Access::Create).and_then(|file| {
        zero(&*file, 0, bytes)?;
        file.write_at(&header(number, mark), 0)?;
        file.sync()
    });
    let made = made.and_then(|()| medium.rename(&draft, &file)).and_then(|()| medium.sync_folder(FOLDER));
    if made.is_err() {
        // Gives the space back. What is left after a failure here is found when the store is opened.
        let _ = medium.remove(&draft);
    }
    made
}

/// Writes zeros, and makes them durable.
pub(super) fn zero(file: &dyn super::medium::MediumFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE.min(usize::try_from(to.saturating_sub(from)).unwrap_or(PIECE))];
    let mut at = from;
    while at < to {
        let length = zeros.len().min(usize::try_from(to - at).unwrap_or(PIECE));
        file.write_at(zeros.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
        if at < to {
            file.sync()?;
        }
    }
    file.sync()
}
