//! Servers in processes of their own: this program again, in another role.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use crate::{Result, echo, gitlab, jobs, memory, questions, queue, single_thread};

/// No child lives longer, whatever became of its parent.
const LONGEST_LIFE: Duration = Duration::from_secs(900);

const MARK: &str = "--role";

/// A process started here; it ends with this value.
pub(crate) struct Server {
    child: Child,
    /// Its end tells the child to end.
    stdin: Option<ChildStdin>,
    /// The line it said when it was ready: its address.
    pub(crate) said: String,
}

impl Server {
    /// Starts this program in a role and waits until it is ready.
    pub(crate) fn start(role: &str, args: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([MARK, role])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("a child without output")?;
        let mut server = Self { child, stdin, said: String::new() };
        BufReader::new(stdout).read_line(&mut server.said)?;
        server.said = server.said.trim().to_owned();
        if server.said.is_empty() {
            return Err(format!("the child `{role}` ended before it was ready").into());
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.said)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power failure would, as far as the process is concerned.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It exits as soon as it sees that; there is nothing to do about one that cannot be waited for.
        let _ = self.child.wait();
    }
}

/// The role of this process, if it was started by [`Server::start`].
pub(crate) fn role(args: &[String]) -> Option<(&str, &[String])> {
    match args {
        [mark, role, rest @ ..] if mark == MARK => Some((role, rest)),
        _ => None,
    }
}

pub(crate) fn run(role: &str, args: &[String]) -> Result<()> {
    std::thread::spawn(|| {
        // Ends when the parent closes it, or is gone.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST_LIFE);
        std::process::exit(3);
    });
    match (role, args) {
        ("echo", []) => single_thread()?.block_on(echo::serve()),
        ("echo-dial", [url]) => single_thread()?.block_on(echo::dial(url)),
        ("controller", []) => single_thread()?.block_on(questions::listen()),
        ("controller-attach", [url]) => single_thread()?.block_on(questions::attach(url)),
        ("router", [folder]) => {
            // As `jobgate serve` does.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(jobs::route(folder))
        }
        ("queue", [folder, mebibytes]) => single_thread()?.block_on(queue::serve(folder, mebibytes)),
        ("bare-streams", tls) => single_thread()?.block_on(memory::bare(tls)),
        ("holder", args) => single_thread()?.block_on(memory::hold(args)),
        ("gitlab", [way, after_ms]) => single_thread()?.block_on(gitlab::fake(way, after_ms)),
        ("gitlab-runners", [address, count]) => single_thread()?.block_on(gitlab::hold(address, count)),
        ("proxy", [to, most @ ..]) => {
            // As the router.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(gitlab::proxy(to, most.first()))
        }
        ("router-one-thread", [folder]) => single_thread()?.block_on(jobs::route(folder)),
        _ => Err(format!("no role `{role}` with {} arguments", args.len()).into()),
    }
}

/// Tells the parent that this child is ready.
pub(crate) fn ready(said: impl std::fmt::Display) {
    println!("{said}");
}
