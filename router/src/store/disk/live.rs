//! How live jobs lie in the index.

use std::collections::BTreeMap;

use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::{
    frame::{Kind, number32, number64},
    index::{LIVE, damaged},
    pending::Delta,
    segment::Segments,
};
use crate::store::{DocumentRef, JobRow};

/// A row of a live job lies behind: CRC-32 of the rest, segment, offset and length of its document.
const LIVE_HEADER: usize = 24;

/// Brings the table of live jobs up to date, and counts the documents in each segment.
pub(super) fn write_live(
    write: &WriteTransaction,
    delta: &Delta,
    segments: &Segments,
    documents: &mut BTreeMap<u64, u64>,
) -> Result<(), redb::Error> {
    let mut table = write.open_table(LIVE)?;
    let mut lost = |document: Option<DocumentRef>| {
        let Some(segment) = document.map(|document| document.segment) else { return };
        if let Some(count) = documents.get_mut(&segment) {
            *count -= 1;
            if *count == 0 {
                documents.remove(&segment);
            }
        }
    };
    for id in delta.over.keys() {
        if let Some(old) = table.remove(&**id)? {
            lost(document_of(old.value()));
        }
    }
    let mut gained = Vec::new();
    let mut live: Vec<_> = delta.live.iter().collect();
    live.sort_unstable_by(|a, b| a.0.cmp(b.0));
    let mut value = Vec::new();
    for (id, job) in live {
        let row = segments.entry(Kind::Row, job.row).map_err(|error| damaged(error.to_string()))?;
        let row = row.ok_or_else(|| damaged(format!("the log has no segment {}", job.row.segment)))?;
        let old = table.get(&**id)?.and_then(|old| document_of(old.value()));
        let document = job.document.or(old);
        live_value(document, &row, &mut value);
        table.insert(&**id, value.as_slice())?;
        if old != document {
            lost(old);
            gained.extend(document);
        }
    }
    for document in gained {
        *documents.entry(document.segment).or_insert(0) += 1;
    }
    Ok(())
}

fn live_value(document: Option<DocumentRef>, row: &[u8], into: &mut Vec<u8>) {
    let document = document.unwrap_or_default();
    into.clear();
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&document.segment.to_le_bytes());
    into.extend_from_slice(&document.offset.to_le_bytes());
    into.extend_from_slice(&document.length.to_le_bytes());
    into.extend_from_slice(row);
    let crc = crc32fast::hash(into.get(4..).unwrap_or_default());
    into.splice(..4, crc.to_le_bytes());
}

/// The row of a live job, or what is wrong with it.
pub(super) fn live_row(value: &[u8]) -> Result<JobRow, String> {
    let (header, row) = value.split_at_checked(LIVE_HEADER).ok_or("its row is too short")?;
    if number32(header, 0) != crc32fast::hash(value.get(4..).unwrap_or_default()) {
        return Err("the checksum of its row is wrong".to_owned());
    }
    let mut row = JobRow::decode(row).map_err(|error| error.to_string())?;
    row.document = document_of(value);
    Ok(row)
}

/// No document begins at byte 0 of segment 0.
fn document_of(value: &[u8]) -> Option<DocumentRef> {
    let document =
        DocumentRef { segment: number64(value, 4), offset: number64(value, 12), length: number32(value, 20) };
    (document.segment > 0).then_some(document)
}
