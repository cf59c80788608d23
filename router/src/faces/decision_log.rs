//! Decisions as JSON lines in a file: an export. Its failure is loud and counted, and stops nothing.

mod file;

use std::{fmt, io, sync::Arc, thread};

use tokio::sync::{mpsc, oneshot};

use self::file::RotatingFile;
use super::{Metrics, throttle::Throttle};
use crate::{config, decision::Decision};

/// Decisions that may wait for a slow disk.
const WAITING: usize = 16 * 1024;
/// Lines that are written at once, at most.
const BATCH: usize = 256;

/// Exports decisions; cheap to clone. Never waits and never fails: what cannot be written is counted and said.
#[derive(Clone)]
pub struct DecisionLog {
    lines: mpsc::Sender<Arc<Decision>>,
    metrics: Metrics,
    full: Arc<Throttle>,
}

/// Ends when every [`DecisionLog`] is dropped and everything is written.
#[derive(Debug)]
pub struct DecisionLogEnd(oneshot::Receiver<()>);

impl DecisionLog {
    /// Starts the export on a thread of its own. A file that cannot be opened is tried again with every decision.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(config: &config::DecisionLog, metrics: Metrics) -> io::Result<(Self, DecisionLogEnd)> {
        let (lines, waiting) = mpsc::channel(WAITING);
        let (ended, end) = oneshot::channel();
        let writer = Writer {
            file: RotatingFile::new(config.path.clone(), config.max_bytes, config.keep),
            metrics: metrics.clone(),
            failing: Throttle::default(),
            lost: 0,
        };
        thread::Builder::new().name("decision-log".to_owned()).spawn(move || {
            writer.run(waiting);
            // Nobody has to wait for the end.
            let _ = ended.send(());
        })?;
        Ok((Self { lines, metrics, full: Arc::default() }, DecisionLogEnd(end)))
    }

    /// Exports one decision.
    pub fn export(&self, decision: Arc<Decision>) {
        if self.lines.try_send(decision).is_err() {
            self.metrics.export_error(1);
            if let Some(before) = self.full.pass() {
                tracing::error!(before, "the decision log cannot keep up: decisions are not exported");
            }
        }
    }
}

impl fmt::Debug for DecisionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLog").finish_non_exhaustive()
    }
}

impl DecisionLogEnd {
    /// Waits until everything is written and the file is closed.
    pub async fn wait(self) {
        // A dropped sender is the end of the thread as well.
        let _ = self.0.await;
    }
}

struct Writer {
    file: RotatingFile,
    metrics: Metrics,
    failing: Throttle,
    lost: u64,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Arc<Decision>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while waiting.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.write(&batch);
            batch.clear();
        }
    }

    fn write(&mut self, decisions: &[Arc<Decision>]) {
        let mut lines = Vec::new();
        for decision in decisions {
            match serde_json::to_vec(&**decision) {
                Ok(mut line) => {
                    line.push(b'\n');
                    lines.push(line);
                }
                Err(error) => self.failed(1, &io::Error::from(error)),
            }
        }
        match self.file.append(&lines) {
            Ok(()) if self.lost > 0 => {
                tracing::info!(lost = self.lost, path = %self.file.path().display(), "the decision log is written again");
                self.lost = 0;
            }
            Ok(()) => {}
            Err((written, error)) => self.failed(lines.len() - written, &error),
        }
    }

    fn failed(&mut self, lost: usize, error: &io::Error) {
        let lost = lost as u64;
        self.lost += lost;
        self.metrics.export_error(lost);
        if self.failing.pass().is_some() {
            let path = self.file.path().display();
            tracing::error!(%path, %error, lost = self.lost, "cannot write the decision log; decisions stand, and are not exported");
        }
    }
}

#[cfg(test)]
mod tests;
