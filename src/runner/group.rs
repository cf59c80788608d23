//! A process together with everything it starts.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
    signal::unix::{Signal as Listener, SignalKind, signal},
};

/// A process group. Dropped, it is killed whole.
pub(super) struct Group {
    child: Child,
    /// The leader and the group; none once the leader was reaped, as its number may then be another's.
    pid: Option<Pid>,
    children: Listener,
}

impl Group {
    /// Starts the command as the leader of a new group, without input. Gives what it and its children print, in the order in
    /// which they print it.
    pub(super) fn start(mut command: Command) -> io::Result<(Self, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        // Before the start, so that no end can be missed.
        let children = signal(SignalKind::child())?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok((Self { child, pid, children }, output))
    }

    /// Waits until the leader has ended, and leaves it unreaped: until then its number is nobody else's.
    pub(super) async fn ended(&mut self) {
        let Some(pid) = self.pid else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), options), Ok(None)) {
            self.children.recv().await;
        }
    }

    /// Asks all of the group to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills what is left of the group, and says how its leader ended.
    pub(super) async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.pid = None;
        self.child.wait().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // The only way to fail is that nobody is left.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// How a process ended, for people.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
