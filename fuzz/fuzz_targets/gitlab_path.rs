//! Any text as the path of a request: a job request in whatever spelling is never passed on to GitLab.
#![no_main]

use jobgate_router::fuzz_gitlab_path;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| fuzz_gitlab_path(path));
