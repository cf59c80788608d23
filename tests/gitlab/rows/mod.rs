//! The edge cases that a server must get right, by their rows in the facts (section 7), and where each is tested. `gitlab/` is
//! `router/src/gitlab/`, the rest is here.
//!
//! | row | about | test |
//! |---|---|---|
//! | 1 | no job over gRPC is OK and empty | `router::row_01_…` |
//! | 2 | "no router" is kept for an hour | `router::row_02_…` |
//! | 3 | `Unimplemented` is the off switch | `router::row_03_…` |
//! | 4 | the fallback to REST is under the same policy | `router::row_04_…` |
//! | 5 | metadata in the initial headers | `router::row_05_…` |
//! | 6 | `ws` and `wss` | never told: `gitlab/tests/around.rs::discovery_tells_where_we_are` |
//! | 7 | a job too large for gRPC | `router::row_07_…` |
//! | 8 | no deadline on `GetJob` | `router::row_08_…` |
//! | 9 | pings without streams | `connection::row_09_…` |
//! | 10 | a job written to a dead stream | `router::row_10_…` |
//! | 11 | after an outage | `router::row_11_…` |
//! | 12 | the content type of a job | `request::row_12_…` |
//! | 13 | wrong types in a job | not a server's; the bytes are GitLab's: `walk::an_admitted_job_reaches_its_runner_byte_for_byte` |
//! | 14 | unknown options of executors | `request::row_14_…` |
//! | 15 | 403 is for bad tokens | `request::row_15_…` |
//! | 16 | what ends a running job | `life::row_16_…` |
//! | 17 | `Content-Range`, 416, pieces sent again | `life::row_17_…`; what jobgate writes itself: `recipe::a_log_is_gone_on_with_…` |
//! | 18 | exact statuses | `life::row_18_…` |
//! | 19 | the end is said several times | `life::row_19_…` |
//! | 20 | calls that are repeated | `request::row_20_…` |
//! | 21 | `Retry-After` | `gitlab/calls.rs::row_21_…`; towards runners: `refusals::gitlabs_429_…` |
//! | 22 | the interval | `life::row_22_…` |
//! | 23 | artifacts without length or limit | `gitlab/tests/large.rs`, `gitlab/tests/halt.rs`; through the whole: `life::row_23_…` |
//! | 24, 25 | whose certificates git trusts, `clone_url` | the runner's configuration: docs |
//! | 26 | URLs in variables lead past jobgate | `request::row_26_…`, and docs |
//! | 27 | `info` complete | `request::row_27_…` |
//! | 28 | the runner's address | `request::row_28_…` |
//! | 29 | long tokens | `request::row_29_…`; limits: `gitlab/tests/through.rs::heads_of_30_kilobytes_are_taken_and_of_40_are_not` |
//! | 30 | prefixes, 64-bit ids | `connection::row_30_…` |
//! | 31 | REST and gRPC on one listener | `connection::row_31_…` |
//! | 32 | bodies where few have one | `life::row_32_…` |
//! | 33 | where a job's token is | `life::row_33_…` |
//! | 34 | native steps | the runner's |
//! | 35 | calls about jobs that are over | `life::row_35_…` |

mod connection;
mod life;
mod request;
mod router;
