//! Any bytes of the store's log are frames, or are said not to be.
#![no_main]

use jobgate_router::fuzz_store_frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz_store_frame(data));
