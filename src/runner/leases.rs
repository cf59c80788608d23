//! What the runner holds and owes: a state machine that does no I/O and reads no clock.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jobgate_proto::runner::v1::{
    Accept, Assign, Cancel, Credit, Draining, Finished, GatewayMessage, Heartbeat, HeldLease, Outcome, Recorded,
    Refuse, RunnerMessage, Started, Welcome, gateway_message, runner_message,
};
use tokio::time::Instant;

use super::{
    execution::{End, Key},
    script::Script,
};

/// The leases of one runner, from assignment until the router has recorded the result.
pub(super) struct Leases {
    capacity: u32,
    held: BTreeMap<Arc<str>, Lease>,
    /// Credits the router has and has not used; none while detached.
    granted: u32,
    attached: bool,
    draining: bool,
    last_word: Instant,
    silence_limit: Duration,
    silenced: bool,
}

struct Lease {
    number: u64,
    phase: Phase,
}

enum Phase {
    Running {
        started: bool,
    },
    /// Told to end; the result comes.
    Stopping {
        started: bool,
        why: Stop,
    },
    /// Not known to be recorded.
    Ended(Finished),
}

/// Why a job is ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The router said so: the lease is void.
    Canceled,
    /// The router said nothing for too long.
    Silence(Duration),
    /// This runner is being stopped.
    Shutdown,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Effect {
    Send(RunnerMessage),
    Run { key: Key, script: Script, timeout: Option<Duration>, fence: Option<u64> },
    Stop { key: Key, why: Stop },
}

/// Unrecorded results that cost no slot.
const MAX_OWED: usize = 1000;

const HOUR: Duration = Duration::from_secs(3600);

impl Leases {
    pub(super) fn new(capacity: u32, now: Instant) -> Self {
        Self {
            capacity,
            held: BTreeMap::new(),
            granted: 0,
            attached: false,
            draining: false,
            last_word: now,
            silence_limit: Duration::from_secs(30),
            silenced: false,
        }
    }

    /// Whether nothing runs and nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many jobs run or wait for their result to be recorded.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether the router was silent for too long, and has not spoken since.
    pub(super) fn is_silenced(&self) -> bool {
        self.silenced
    }

    /// For Hello and Heartbeat. Leases that the router voided itself are not held.
    pub(super) fn held(&self) -> Vec<HeldLease> {
        let held = self.held.iter().filter_map(|(job_id, lease)| {
            let started = match &lease.phase {
                Phase::Running { started } => *started,
                Phase::Stopping { why: Stop::Canceled, .. } => return None,
                Phase::Stopping { started, .. } => *started,
                Phase::Ended(_) => true,
            };
            Some(HeldLease { job_id: job_id.to_string(), lease: lease.number, started })
        });
        held.collect()
    }

    pub(super) fn heartbeat(&self) -> RunnerMessage {
        message(runner_message::Message::Heartbeat(Heartbeat { leases: self.held() }))
    }

    /// The router took our Hello: results it may have missed are said again, and free slots are granted.
    pub(super) fn attached(&mut self, welcome: &Welcome, now: Instant) -> Vec<Effect> {
        if let Some(limit) = welcome.silence_limit.and_then(|limit| Duration::try_from(limit).ok()) {
            self.silence_limit = limit.clamp(Duration::from_millis(100), HOUR);
        }
        self.word(now);
        self.attached = true;
        self.granted = 0;
        let results = self.held.values().filter_map(|lease| match &lease.phase {
            Phase::Ended(finished) => Some(send(runner_message::Message::Finished(finished.clone()))),
            _ => None,
        });
        let mut effects: Vec<_> = results.collect();
        match self.draining {
            true => effects.push(send(runner_message::Message::Draining(Draining {}))),
            false => effects.extend(self.grant()),
        }
        effects
    }

    pub(super) fn detached(&mut self) {
        self.attached = false;
        self.granted = 0;
    }

    /// The router spoke.
    pub(super) fn message(&mut self, message: GatewayMessage, now: Instant) -> Vec<Effect> {
        self.word(now);
        match message.message {
            Some(gateway_message::Message::Assign(assign)) => self.assign(assign),
            Some(gateway_message::Message::Cancel(cancel)) => self.cancel(&cancel),
            Some(gateway_message::Message::Recorded(recorded)) => self.recorded(&recorded),
            // A second welcome, signs of life, signals of the queue, a later version's news.
            _ => Vec::new(),
        }
    }

    /// The job's script has started.
    pub(super) fn started(&mut self, key: &Key) -> Vec<Effect> {
        match self.phase(key) {
            Some(Phase::Running { started } | Phase::Stopping { started, .. }) => *started = true,
            _ => return Vec::new(),
        }
        let (job_id, lease) = (key.job_id.to_string(), key.lease);
        vec![send(runner_message::Message::Started(Started { job_id, lease }))]
    }

    /// The job has ended, and nothing of it runs any more.
    pub(super) fn ended(&mut self, key: &Key, end: End) -> Vec<Effect> {
        let Some(phase) = self.phase(key) else { return Vec::new() };
        let (outcome, reason) = match phase {
            Phase::Stopping { why: Stop::Canceled, .. } => (Outcome::Canceled, "canceled".to_owned()),
            Phase::Stopping { why, .. } if !end.success => (Outcome::Failed, why.to_string()),
            _ if end.success => (Outcome::Success, String::new()),
            _ => (Outcome::Failed, end.reason),
        };
        let finished = Finished {
            job_id: key.job_id.to_string(),
            lease: key.lease,
            outcome: outcome.into(),
            exit_code: end.exit_code,
            reason,
        };
        let mut effects = vec![send(runner_message::Message::Finished(finished.clone()))];
        match outcome {
            // The lease is void: the router knows how this job ended, and need not say that it recorded it.
            Outcome::Canceled => _ = self.held.remove(&key.job_id),
            _ => *phase = Phase::Ended(finished),
        }
        effects.extend(self.grant());
        effects
    }

    /// No new jobs from now on.
    pub(super) fn drain(&mut self) -> Vec<Effect> {
        self.draining = true;
        match self.attached {
            true => vec![send(runner_message::Message::Draining(Draining {}))],
            false => Vec::new(),
        }
    }

    /// Ends all jobs.
    pub(super) fn stop_all(&mut self, why: &Stop) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (job_id, lease) in &mut self.held {
            if let Phase::Running { started } = lease.phase {
                lease.phase = Phase::Stopping { started, why: why.clone() };
                let key = Key { job_id: Arc::clone(job_id), lease: lease.number };
                effects.push(Effect::Stop { key, why: why.clone() });
            }
        }
        effects
    }

    /// When the router will have been silent for too long.
    pub(super) fn silent_at(&self) -> Instant {
        self.last_word + self.silence_limit
    }

    /// Ends all jobs when the router was silent for too long: their leases may pass on soon.
    pub(super) fn silence(&mut self, now: Instant) -> Vec<Effect> {
        if self.silenced || now < self.silent_at() {
            return Vec::new();
        }
        self.silenced = true;
        self.stop_all(&Stop::Silence(self.silence_limit))
    }

    fn word(&mut self, now: Instant) {
        self.last_word = now;
        self.silenced = false;
    }

    fn phase(&mut self, key: &Key) -> Option<&mut Phase> {
        let lease = self.held.get_mut(&key.job_id).filter(|lease| lease.number == key.lease)?;
        Some(&mut lease.phase)
    }

    fn assign(&mut self, assign: Assign) -> Vec<Effect> {
        let (job_id, lease) = (assign.job_id, assign.lease);
        // The credit is used up whatever becomes of the job.
        let credited = self.granted > 0;
        self.granted = self.granted.saturating_sub(1);
        let held = self.held.get(job_id.as_str()).map(|held| held.number);
        let mut effects = Vec::new();
        let reason = match held {
            // Said twice: it runs already, or its result was said.
            Some(number) if number == lease => return self.grant().into_iter().collect(),
            Some(number) if number > lease => "an older lease of a job that this runner holds".to_owned(),
            Some(number) => {
                effects.extend(self.cancel(&Cancel { job_id: job_id.clone(), lease: number, reason: String::new() }));
                "this runner has not yet ended an earlier lease of this job".to_owned()
            }
            None if self.draining => "the runner is draining".to_owned(),
            None if !credited || self.busy() >= self.capacity => "the runner is at capacity".to_owned(),
            None => match read(&assign.document) {
                Ok(script) => {
                    let key = Key { job_id: job_id.as_str().into(), lease };
                    let phase = Phase::Running { started: false };
                    self.held.insert(Arc::clone(&key.job_id), Lease { number: lease, phase });
                    let timeout = assign.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
                    let timeout = timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| timeout.min(720 * HOUR));
                    effects.push(send(runner_message::Message::Accept(Accept { job_id, lease })));
                    effects.push(Effect::Run { key, script, timeout, fence: assign.fence });
                    return effects;
                }
                Err(reason) => reason,
            },
        };
        effects.push(send(runner_message::Message::Refuse(Refuse { job_id, lease, reason })));
        effects.extend(self.grant());
        effects
    }

    fn cancel(&mut self, cancel: &Cancel) -> Vec<Effect> {
        let key = Key { job_id: cancel.job_id.as_str().into(), lease: cancel.lease };
        match self.phase(&key) {
            Some(phase @ &mut Phase::Running { started }) => {
                *phase = Phase::Stopping { started, why: Stop::Canceled };
                vec![Effect::Stop { key, why: Stop::Canceled }]
            }
            Some(Phase::Stopping { why, .. }) => {
                *why = Stop::Canceled;
                Vec::new()
            }
            Some(Phase::Ended(_)) => {
                self.held.remove(&key.job_id);
                self.grant().into_iter().collect()
            }
            // Not held, or under another lease: old news.
            None => Vec::new(),
        }
    }

    fn recorded(&mut self, recorded: &Recorded) -> Vec<Effect> {
        let key = Key { job_id: recorded.job_id.as_str().into(), lease: recorded.lease };
        if let Some(Phase::Ended(_)) = self.phase(&key) {
            self.held.remove(&key.job_id);
        }
        self.grant().into_iter().collect()
    }

    /// Jobs that still take a slot. Results that a router never records come to take some, too.
    fn busy(&self) -> u32 {
        let owed = self.held.values().filter(|lease| matches!(lease.phase, Phase::Ended(_))).count();
        u32::try_from(self.held.len() - owed.min(MAX_OWED)).unwrap_or(u32::MAX)
    }

    /// Credits for slots that are free and not yet granted.
    fn grant(&mut self) -> Option<Effect> {
        let slots = self.capacity.saturating_sub(self.busy()).saturating_sub(self.granted);
        if slots == 0 || !self.attached || self.draining {
            return None;
        }
        self.granted += slots;
        Some(send(runner_message::Message::Credit(Credit { slots })))
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Canceled => f.write_str("canceled"),
            Self::Silence(limit) => write!(f, "stopped: no word from the router for {limit:?}"),
            Self::Shutdown => f.write_str("stopped: the runner was shut down"),
        }
    }
}

fn read(document: &[u8]) -> Result<Script, String> {
    std::str::from_utf8(document).map_err(|_| "the job document is not UTF-8".to_owned())?.parse()
}

pub(super) fn message(message: runner_message::Message) -> RunnerMessage {
    RunnerMessage { message: Some(message) }
}

fn send(content: runner_message::Message) -> Effect {
    Effect::Send(message(content))
}
