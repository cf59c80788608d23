//! How the fake behaves.

use std::time::Duration;

use super::documents::ALL_REASONS;

#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a request with the current `last_update` is held (facts 2.3).
    pub hold: Duration,
    /// Jobs wait for their runner's acknowledgement (facts 5.1), if the request says that the runner knows how.
    pub two_phase: bool,
    /// A final state with a checksum is answered 202 the first time (facts 4.3).
    pub live_trace: bool,
    /// So many final states with a checksum are answered 412, which old GitLabs do.
    pub rewinds: usize,
    /// More trace than this drops the job.
    pub trace_limit: Option<usize>,
    /// `X-GitLab-Trace-Update-Interval`, in seconds; none is sent without it.
    pub trace_interval: Option<i64>,
    /// Failure reasons that this GitLab stores as they are.
    pub known_reasons: Vec<String>,
    /// `direct_download=true` is answered with this status and a place elsewhere.
    pub redirect: Option<u16>,
    /// Artifacts are sent with their length, not in chunks.
    pub sized_downloads: bool,
    /// What discovery answers; 501 without it (facts 1.5).
    pub router: Option<String>,
    /// A path before `/api/v4`.
    pub prefix: String,
    /// Keeps every call. Without it they are counted only, for runs that would fill memory.
    pub record: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(50),
            two_phase: false,
            live_trace: false,
            rewinds: 0,
            trace_limit: None,
            trace_interval: Some(3),
            known_reasons: ALL_REASONS.iter().map(|&reason| reason.to_owned()).collect(),
            redirect: None,
            sized_downloads: false,
            router: None,
            prefix: String::new(),
            record: true,
        }
    }
}
