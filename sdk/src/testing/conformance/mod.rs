//! The conformance suite: examines any controller that listens, in any language, from outside.
//!
//! ```
//! use jobgate_sdk::{AdmissionRequest, ServeError, Verdict, serve, testing::conformance};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ServeError> {
//! let controller = |_: AdmissionRequest| async { Verdict::admit() };
//! let listening = serve(controller).listen("127.0.0.1:0").bind().await?;
//! let target = conformance::Target::new(listening.local_addr().to_string());
//! tokio::spawn(listening.into_future());
//!
//! let report = conformance::run(target).await;
//! assert!(report.conforms(), "{report}");
//! # Ok(())
//! # }
//! ```

mod checks;
mod client;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use self::client::Client;
use crate::{ClientTls, Token};

/// The controller to examine.
#[must_use = "examine it with `run`"]
pub struct Target {
    url: String,
    token: Option<Token>,
    tls: ClientTls,
    drain: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What the examination found.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody reads finds nothing"]
pub struct Report {
    target: String,
    checks: Vec<Check>,
}

/// One thing that was examined.
#[derive(Clone, Debug)]
pub struct Check {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// It conforms, and could do better: what was found, and what to do.
    Advice(String, &'static str),
    /// It does not conform: what was found, and what to do.
    Failed(String, &'static str),
    /// Not examined, and why.
    Skipped(&'static str),
}

/// Examines a controller. Asks it a few hundred questions, none of which is about a real job; its verdicts do not matter, except
/// that it may not admit what is no question. Ends within two minutes, whatever the controller does.
pub async fn run(target: Target) -> Report {
    let Target { url, token, tls, drain } = target;
    let mut report = Report { target: url.clone(), checks: Vec::new() };
    let started = Instant::now();
    let client = match Client::connect(&url, token.as_ref(), &tls).await {
        Ok(client) => client,
        Err(found) => {
            let advice = "Start the controller, and check address, TLS and firewall";
            report.add("reachable", started, Outcome::Failed(found, advice));
            return report;
        }
    };
    report.add("reachable", started, Outcome::Passed);
    for (name, check) in checks::all(&client) {
        let started = Instant::now();
        report.add(name, started, check.await);
    }
    let started = Instant::now();
    let drained = match drain {
        Some(drain) => checks::drain(&client, drain).await,
        None => Outcome::Skipped("needs a way to shut the controller down"),
    };
    report.add("drain", started, drained);
    report
}

impl Target {
    /// A controller at `127.0.0.1:7501`, or at a URL.
    pub fn new(address: impl Into<String>) -> Self {
        let address = address.into();
        let url = if address.contains("://") { address } else { format!("http://{address}") };
        Self { url, token: None, tls: ClientTls::new(), drain: None }
    }

    /// Presents this token.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Whom to trust and which certificate to show, for an `https://` address.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// Awaited at the end, to begin the controller's shutdown while it is being asked; examines how it drains.
    pub fn shut_down_by(mut self, drain: impl Future<Output = ()> + Send + 'static) -> Self {
        self.drain = Some(Box::pin(drain));
        self
    }
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn conforms(&self) -> bool {
        self.checks.iter().all(|check| !matches!(check.outcome, Outcome::Failed(..)))
    }

    /// Everything that was examined, in order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    fn add(&mut self, name: &'static str, started: Instant, outcome: Outcome) {
        self.checks.push(Check { name, outcome, took: started.elapsed() });
    }
}

impl Check {
    /// What was examined.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

impl fmt::Display for Report {
    /// A table, with what to do about each finding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        for Check { name, outcome, took } in &self.checks {
            let (word, found, advice) = match outcome {
                Outcome::Passed => ("passed", "", ""),
                Outcome::Advice(found, advice) => ("advice", found.as_str(), *advice),
                Outcome::Failed(found, advice) => ("FAILED", found.as_str(), *advice),
                Outcome::Skipped(why) => ("skipped", *why, ""),
            };
            writeln!(f, "  {}", format!("{name:<17} {word:<8} {:>5} ms  {found}", took.as_millis()).trim_end())?;
            if !advice.is_empty() {
                writeln!(f, "  {:>39}  {advice}.", "→")?;
            }
        }
        let count = |wanted: fn(&Outcome) -> bool| self.checks.iter().filter(|check| wanted(&check.outcome)).count();
        let (passed, failed) =
            (count(|outcome| *outcome == Outcome::Passed), count(|outcome| matches!(outcome, Outcome::Failed(..))));
        let word = if self.conforms() { "conforms" } else { "does not conform" };
        write!(f, "{word}: {passed} passed, {failed} failed")
    }
}
