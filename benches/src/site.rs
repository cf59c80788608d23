//! A router in a process of its own, with its folder on the disk that is measured.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jobgate_proto::job::v1::{SubmitRequest, jobs_client::JobsClient};
use tonic::{Request, transport::Channel};

use crate::{Result, child::Server, echo, fixtures};

pub(crate) const RUNNER: &str = "bench-runner-0123456789";
pub(crate) const LATER: &str = "bench-later-0123456789";
pub(crate) const SUBMITTER: &str = "bench-submitter-0123456789";

/// Tag of jobs for which there is no runner at first: those of the runner with the token [`LATER`].
pub(crate) const LATER_TAG: &str = "later";

/// A router process and its folder.
pub(crate) struct Site {
    pub(crate) router: Server,
    role: &'static str,
    folder: tempfile::TempDir,
}

/// How a router is configured.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// With one policy of eight rules in YAML for all jobs; nobody is asked otherwise.
    pub(crate) policy: bool,
    pub(crate) tls: bool,
    /// One thread instead of one for each processor.
    pub(crate) one_thread: bool,
}

/// A folder on the disk of the program itself; `/tmp` may be memory.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    let program = std::env::current_exe()?;
    let beside = program.parent().ok_or("a program without a folder")?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(beside)?)
}

impl Site {
    pub(crate) fn start(setup: Setup) -> Result<Self> {
        let folder = folder()?;
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        file("runner.token", RUNNER)?;
        file("later.token", LATER)?;
        file("ci.token", SUBMITTER)?;
        file("policy.yaml", fixtures::YAML)?;
        let policy = "controllers:\n  - { name: instance, scope: instance, policy: policy.yaml }\n";
        let tls = "tls: { cert: cert.pem, key: key.pem }\n";
        if setup.tls {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
            file("cert.pem", &made.cert.pem())?;
            file("key.pem", &made.signing_key.serialize_pem())?;
        }
        let text = format!(
            "listen: 127.0.0.1:0
state: state
max_jobs: 3000000
no_controllers: admit
{}{}runners:
  - {{ name: r1, token_file: runner.token, run_untagged: true }}
  - {{ name: later, token_file: later.token, tags: [{LATER_TAG}] }}
tokens:
  - {{ name: ci, token_file: ci.token, may: [submit, read] }}
",
            if setup.policy { policy } else { "" },
            if setup.tls { tls } else { "" },
        );
        file("jobgate.yaml", &text)?;
        Self::open(if setup.one_thread { "router-one-thread" } else { "router" }, folder)
    }

    /// A router with the configuration in this folder.
    pub(crate) fn open(role: &'static str, folder: tempfile::TempDir) -> Result<Self> {
        let router = Server::start(role, &[&folder.path().display().to_string()])?;
        Ok(Self { router, role, folder })
    }

    /// Kills the router and starts it again on the same state; gives how long it took until it said that it is ready.
    pub(crate) fn crash(self) -> Result<(Self, Duration)> {
        let Self { router, role, folder } = self;
        router.kill()?;
        let begun = Instant::now();
        let router = Server::start(role, &[&folder.path().display().to_string()])?;
        let site = Self { router, role, folder };
        while !site.is_ready() {
            if begun.elapsed() > Duration::from_secs(300) {
                return Err("the router was not ready within 300 s".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok((site, begun.elapsed()))
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// The whole answer to a GET.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.router.said)?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.router.said);
        write!(stream, "{head}authorization: Bearer {SUBMITTER}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) async fn jobs(&self) -> Result<Jobs> {
        Ok(Jobs(JobsClient::new(echo::connect(&self.router.url()).await?)))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Bytes its state takes on disk, without the zeros at the ends of files that are filled ahead of need, and without the
    /// index, which is written at leisure.
    pub(crate) fn log_bytes(&self) -> Result<u64> {
        let mut all = 0;
        let mut folders = vec![self.path("state")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "seg") {
                    let content = std::fs::read(path)?;
                    all += content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
                }
            }
        }
        Ok(all)
    }
}

/// A submitter.
#[derive(Clone)]
pub(crate) struct Jobs(JobsClient<Channel>);

impl Jobs {
    /// Submits documents, one or a list; gives how many jobs they made.
    pub(crate) async fn submit(&mut self, documents: Bytes) -> Result<usize> {
        let request = SubmitRequest { documents, idempotency_key: String::new() };
        Ok(self.0.submit(with_token(request, SUBMITTER)?).await?.into_inner().jobs.len())
    }
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(process: u32) -> Result<f64> {
    status(process, "VmRSS:")
}

/// The most that it ever had, since somebody wrote `5` to its `clear_refs`.
pub(crate) fn most_resident(process: u32) -> Result<f64> {
    status(process, "VmHWM:")
}

fn status(process: u32, key: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or_else(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}
