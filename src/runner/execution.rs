//! One job from its first line to its result.

use std::{
    collections::VecDeque, convert::Infallible, io, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::unix::pipe,
    process::Command,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    group::{Group, describe},
    mask::Masker,
    scratch::Scratch,
    script::{Script, When},
};

/// A piece of output is at most this long (`runner.proto`, `Output.data`), masks included.
const PIECE: usize = 64 * 1024;

/// Read at once.
const READ: usize = 32 * 1024;

/// Read at most after the processes of a step have ended: as much as a pipe can hold.
const REST: usize = 1024 * 1024;

/// What one job may print. The rest is not sent; the job goes on.
const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;

/// Between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(2);

/// How long to wait for the rest of the output when processes that left the group hold the pipe open.
const LINGER: Duration = Duration::from_secs(1);

/// When neither router nor document say how long a job may run (GitLab's runner does the same).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// One lease's work.
pub(super) struct Execution {
    pub(super) key: Key,
    pub(super) script: Script,
    /// From the router; before the document's own.
    pub(super) timeout: Option<Duration>,
    /// Number of the leadership it is given under.
    pub(super) fence: Option<u64>,
    /// When nothing was reported for so long, it is reported that the job's processes live.
    pub(super) quiet: Duration,
    /// Below which the scratch directory is made.
    pub(super) scratch: PathBuf,
    /// Ends the job early.
    pub(super) stop: CancellationToken,
    pub(super) events: mpsc::Sender<Event>,
}

/// Which lease of which job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) job_id: Arc<str>,
    pub(super) lease: u64,
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Event {
    Started(Key),
    /// May be empty: then it only says that the job's processes live.
    Output(Key, Bytes),
    Ended(Key, End),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) success: bool,
    pub(super) exit_code: Option<i32>,
    /// One line, without secrets; empty on success.
    pub(super) reason: String,
}

impl Execution {
    /// Runs the job to its end and reports it. Whatever happens, the last event is `Ended`.
    pub(super) async fn run(self) {
        let (key, events) = (self.key.clone(), self.events.clone());
        let end = match Scratch::new(&self.scratch) {
            Ok(scratch) => {
                let end = self.steps(&scratch).await.unwrap_or_else(|error| End::failed(None, error.to_string()));
                remove(scratch, &key).await;
                end
            }
            Err(error) => End::failed(None, format!("no scratch directory in {}: {error}", self.scratch.display())),
        };
        // Nobody listens only when the whole runner is being dropped.
        let _ = events.send(Event::Ended(key, end)).await;
    }

    /// An error is the machine's, not the script's.
    async fn steps(mut self, scratch: &Scratch) -> io::Result<End> {
        let environment = scratch.environment(&self.script, &self.key.job_id, self.fence)?;
        let span = self.timeout.or(self.script.timeout).unwrap_or(DEFAULT_TIMEOUT);
        let deadline = Instant::now() + span;
        let mut printer = Printer::new(&self);
        let mut end = End::success();
        let _ = self.events.send(Event::Started(self.key.clone())).await;
        for (number, step) in std::mem::take(&mut self.script.steps).into_iter().enumerate() {
            if step.lines.is_empty() || !step.when.holds(end.success) {
                continue;
            }
            let mut command = Command::new("/bin/sh");
            command.arg("-e").arg(scratch.step(number, &step.lines)?).current_dir(scratch.work());
            command.env_clear().envs(environment.iter().map(|(key, value)| (key, value)));
            let limit = step.timeout.map_or(deadline, |limit| deadline.min(Instant::now() + limit));
            match self.step(command, limit, &mut printer).await? {
                StepEnd::Exited(status) if status.success() || step.allow_failure || !end.success => {}
                StepEnd::Exited(status) => end = End::failed(status.code(), describe(status)),
                StepEnd::Stopped => return Ok(End::failed(None, "stopped".to_owned())),
                StepEnd::OutOfTime => {
                    let span = step.timeout.map_or(span, |limit| limit.min(span));
                    return Ok(End::failed(None, format!("ran longer than the {span:?} allowed")));
                }
            }
        }
        Ok(end)
    }

    async fn step(&self, command: Command, limit: Instant, printer: &mut Printer) -> io::Result<StepEnd> {
        let (mut group, output) = Group::start(command)?;
        printer.output = Some(output);
        let early = tokio::select! {
            () = group.ended() => None,
            () = self.stop.cancelled() => Some(StepEnd::Stopped),
            () = sleep_until(limit) => Some(StepEnd::OutOfTime),
            never = printer.print() => match never {},
        };
        if early.is_some() {
            group.terminate();
            tokio::select! {
                () = group.ended() => {}
                () = sleep(GRACE) => {}
                never = printer.print() => match never {},
            }
        }
        let status = group.kill().await?;
        printer.rest().await;
        Ok(early.unwrap_or(StepEnd::Exited(status)))
    }
}

enum StepEnd {
    Exited(ExitStatus),
    Stopped,
    OutOfTime,
}

impl When {
    fn holds(self, success: bool) -> bool {
        match self {
            Self::OnSuccess => success,
            Self::OnFailure => !success,
            Self::Always => true,
        }
    }
}

impl End {
    fn success() -> Self {
        Self { success: true, exit_code: Some(0), reason: String::new() }
    }

    pub(super) fn failed(exit_code: Option<i32>, reason: String) -> Self {
        Self { success: false, exit_code, reason }
    }
}

async fn remove(scratch: Scratch, key: &Key) {
    let removed = tokio::task::spawn_blocking(|| scratch.remove()).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(job = %key.job_id, %error, "the job's scratch directory could not be removed");
    }
}

/// Carries output from the processes to the router. A router that takes none, takes a rest: the pipe fills, and the job
/// waits.
struct Printer {
    key: Key,
    events: mpsc::Sender<Event>,
    masker: Masker,
    output: Option<pipe::Receiver>,
    buffer: Vec<u8>,
    waiting: VecDeque<Bytes>,
    printed: usize,
    /// When the router was last given something of the job, and how long it may then go without.
    spoken: Instant,
    quiet: Duration,
    /// The reader was told that the rest is not shown.
    cut: bool,
}

impl Printer {
    fn new(of: &Execution) -> Self {
        Self {
            key: of.key.clone(),
            events: of.events.clone(),
            masker: Masker::new(of.script.secrets.iter().map(String::as_bytes)),
            output: None,
            buffer: vec![0; READ],
            waiting: VecDeque::new(),
            printed: 0,
            spoken: Instant::now(),
            quiet: of.quiet,
            cut: false,
        }
    }

    /// Prints for ever; may be dropped at any await without losing anything. A silent compiler is not a dead one: it says so
    /// now and then, also when the output is closed or over its limit.
    async fn print(&mut self) -> Infallible {
        loop {
            self.send().await;
            let quiet = sleep_until(self.spoken + self.quiet);
            tokio::select! {
                _ = self.read(), if self.output.is_some() => {}
                () = quiet => {
                    self.spoken = Instant::now();
                    self.waiting.push_back(Bytes::new());
                }
            }
        }
    }

    /// Prints what the ended processes left in the pipe. Some that left the group may still hold it open, and print on.
    async fn rest(&mut self) {
        let (mut patience, mut bytes) = (LINGER, 0);
        while bytes < REST {
            self.send().await;
            let begun = Instant::now();
            match timeout(patience, self.read()).await {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes += count,
            }
            patience = patience.saturating_sub(begun.elapsed());
        }
        self.output = None;
        let last = self.masker.finish();
        self.queue(last);
        self.send().await;
    }

    /// How many bytes were read; 0 at the end.
    async fn read(&mut self) -> usize {
        let Some(output) = &self.output else { return 0 };
        let count = loop {
            if output.readable().await.is_err() {
                break 0;
            }
            match output.try_read(&mut self.buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break 0,
            }
        };
        let piece = self.masker.push(&self.buffer[..count]);
        self.queue(piece);
        if count == 0 {
            self.output = None;
        }
        count
    }

    fn queue(&mut self, mut bytes: Bytes) {
        let room = OUTPUT_LIMIT - self.printed;
        // Also where a piece before ended just at the limit.
        let over = bytes.len() > room && !self.cut;
        self.cut |= over;
        bytes.truncate(room);
        self.printed += bytes.len();
        while !bytes.is_empty() {
            self.waiting.push_back(bytes.split_to(bytes.len().min(PIECE)));
        }
        if over {
            let notice = format!("\n[the limit of {OUTPUT_LIMIT} bytes of output is reached; the rest is not shown]\n");
            self.waiting.push_back(notice.into());
        }
    }

    async fn send(&mut self) {
        while !self.waiting.is_empty() {
            let Ok(permit) = self.events.reserve().await else { return self.waiting.clear() };
            if let Some(piece) = self.waiting.pop_front() {
                permit.send(Event::Output(self.key.clone(), piece));
                self.spoken = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
        timeout(Duration::from_secs(30), events.recv()).await.unwrap().unwrap()
    }

    fn start(line: &str, quiet: Duration, scratch: &tempfile::TempDir) -> mpsc::Receiver<Event> {
        let (sender, events) = mpsc::channel(32);
        let execution = Execution {
            key: Key { job_id: "7".into(), lease: 1 },
            script: serde_json::json!({ "payload": { "script": [line] } }).to_string().parse().unwrap(),
            timeout: None,
            fence: None,
            quiet,
            scratch: scratch.path().to_owned(),
            stop: CancellationToken::new(),
            events: sender,
        };
        tokio::spawn(execution.run());
        events
    }

    #[tokio::test]
    async fn a_silent_job_is_said_to_live_as_long_as_its_process_does() {
        for silent in ["true", "exec >&- 2>&-", "head -c 17000000 /dev/zero"] {
            let scratch = tempfile::tempdir().unwrap();
            let line = format!("{silent}; until test -e \"$HOME/../../go\"; do sleep 0.02; done");
            let mut events = start(&line, Duration::from_millis(50), &scratch);
            assert!(matches!(next(&mut events).await, Event::Started(_)));
            let mut signs = 0;
            while signs < 3 {
                match next(&mut events).await {
                    Event::Output(key, piece) => signs += u32::from(piece.is_empty() && key.lease == 1),
                    other => panic!("{silent}: {other:?}"),
                }
            }
            std::fs::write(scratch.path().join("go"), "").unwrap();
            loop {
                match next(&mut events).await {
                    Event::Output(..) => {}
                    Event::Ended(_, end) => break assert!(end.success, "{silent}: {end:?}"),
                    other @ Event::Started(_) => panic!("{silent}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_job_that_prints_says_itself_that_it_lives() {
        let scratch = tempfile::tempdir().unwrap();
        let line = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo $i; sleep 0.1; done";
        let mut events = start(line, Duration::from_secs(1), &scratch);
        loop {
            match next(&mut events).await {
                Event::Output(_, piece) => assert!(!piece.is_empty()),
                Event::Ended(_, end) => break assert!(end.success, "{end:?}"),
                Event::Started(_) => {}
            }
        }
    }
}
