use std::path::PathBuf;

use jobgate_sdk::{
    ClientTls, Token,
    testing::conformance::{self, Outcome, Target},
};
use serde_json::json;

use crate::output::{Ended, Exit, Output};

/// Examine a controller, in any language, from outside
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate conformance 127.0.0.1:7501")]
pub(super) struct Args {
    /// Address of the controller, or its URL
    #[arg(value_name = "ADDR")]
    address: String,
    /// File with the token it wants
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust, instead of the public ones
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Args {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let mut target = Target::new(&self.address);
        if let Some(path) = &self.token_file {
            target = target.token(Token::from_file(path));
        }
        if let Some(path) = &self.ca {
            target = target.tls(ClientTls::new().ca(path));
        }
        let report = Box::pin(conformance::run(target)).await;
        match output.is_json() {
            true => output.json(&as_json(&report))?,
            false => output.line(&report)?,
        }
        Ok(if report.conforms() { Exit::Good } else { Exit::No })
    }
}

fn as_json(report: &conformance::Report) -> serde_json::Value {
    let checks = report.checks().iter().map(|check| {
        let (outcome, found, advice) = match check.outcome() {
            Outcome::Passed => ("passed", "", ""),
            Outcome::Advice(found, advice) => ("advice", found.as_str(), *advice),
            Outcome::Failed(found, advice) => ("failed", found.as_str(), *advice),
            Outcome::Skipped(why) => ("skipped", *why, ""),
            _ => ("unknown", "", ""),
        };
        json!({ "name": check.name(), "outcome": outcome, "found": found, "advice": advice })
    });
    json!({ "conforms": report.conforms(), "checks": checks.collect::<Vec<_>>() })
}
