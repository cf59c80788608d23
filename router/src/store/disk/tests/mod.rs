mod crash;
mod damage;
mod directory;
mod frames;
mod full;
mod histories;
mod model;
mod retention;
mod simulated;

use std::sync::Arc;

use jiff::Timestamp;

use self::{model::Histories, simulated::Simulated};
use super::{Background, DiskOptions, DiskStore, OpenError, Repairs};
use crate::store::Restored;

/// Options for small segments, at the time of these histories.
fn options() -> DiskOptions {
    DiskOptions {
        segment_bytes: 8 << 10,
        cache_bytes: 1 << 20,
        clock: Arc::new(|| Timestamp::from_second(1_800_000_010).unwrap()),
        ..DiskOptions::default()
    }
}

fn open(medium: &Simulated) -> Result<(DiskStore, Restored, Repairs), OpenError> {
    DiskStore::open_in(Arc::new(medium.clone()), options(), Background::Inline)
}
