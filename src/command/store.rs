use std::path::PathBuf;

use jobgate_router::{CheckReport, check_store};

use crate::output::{Ended, Exit, Failure, Output};

/// Look at a router's state directory
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check a state directory that is not in use, and say everything that is wrong with it; nothing in it is changed
    ///
    /// Every batch, every document of a job that is not over, and everything the index points at is read and verified.
    #[command(after_help = "\
Exit status: 0 good, 2 damaged or unreadable.

Example:
  jobgate store check jobgate-data")]
    Check {
        /// The directory, as `state` in the configuration
        directory: PathBuf,
    },
}

impl Command {
    pub(super) fn run(&self, output: &mut Output) -> Ended {
        let Self::Check { directory } = self;
        let report = check_store(directory).map_err(Failure::new)?;
        if output.is_json() {
            output.json(&report)?;
            return Ok(if report.is_good() { Exit::Good } else { Exit::Broken });
        }
        print(&report, output)?;
        if report.is_good() {
            output.line(format_args!("good"))?;
            return Ok(Exit::Good);
        }
        let faults: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
        let failure = Failure::new(format_args!("{} fault(s)\n{}", faults.len(), faults.join("\n")));
        Err(failure.help("restore the directory from a copy; nothing in it was changed"))
    }
}

fn print(report: &CheckReport, output: &mut Output) -> Result<(), Failure> {
    let mut rows: Vec<[String; 2]> = vec![
        ["segments of the log".to_owned(), report.segments.to_string()],
        ["batches".to_owned(), report.frames.to_string()],
        ["bytes in use".to_owned(), report.bytes.to_string()],
    ];
    let times = [("oldest batch", report.oldest), ("newest batch", report.newest)];
    rows.extend(times.iter().filter_map(|(what, time)| Some([(*what).to_owned(), (*time)?.to_string()])));
    rows.extend(report.live.iter().map(|(state, jobs)| [format!("jobs {state}"), jobs.to_string()]));
    rows.push(["jobs that are over".to_owned(), report.finished.to_string()]);
    rows.push(["decisions".to_owned(), report.decisions.to_string()]);
    rows.push(["documents".to_owned(), format!("{}, {} bytes", report.documents, report.document_bytes)]);
    output.table(&["what", "how much"], rows, "")?;
    if let Some(torn) = &report.torn {
        output.line(format_args!(
            "{torn}: the last batch was not written completely, and was never acknowledged; the next start removes it"
        ))?;
    }
    Ok(())
}
