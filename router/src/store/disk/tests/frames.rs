//! Any bytes are a frame, nothing, or no frame.

use proptest::prelude::*;

use super::{super::frame::*, model::Histories, *};

const MARK: u64 = 0x1234_5678_9abc_def0;

fn encoded(seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = FrameHead { mark: MARK, number: 7, time: Timestamp::UNIX_EPOCH };
    encode(&Histories::new(seed).batch(), head, 3, 4096, &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..400), marked: bool) {
        let mut bytes = bytes;
        if marked && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&MARK.to_le_bytes());
        }
        if let Parsed::Frame(frame) = parse(MARK, &bytes) {
            prop_assert!(frame.entries().count() <= bytes.len());
        }
    }

    #[test]
    fn entries_can_be_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let frame = Frame { number: 1, time: 0, entries: &bytes, size: bytes.len() };
        prop_assert!(frame.entries().count() <= bytes.len() + 1);
    }

    #[test]
    fn any_bytes_can_be_fuzzed(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_store_frame(&bytes);
    }

    #[test]
    fn what_was_encoded_is_read_back(seed: u64) {
        let bytes = encoded(seed);
        let Parsed::Frame(frame) = parse(MARK, &bytes) else { panic!("no frame") };
        prop_assert_eq!((frame.number, frame.time, frame.size), (7, 0, bytes.len()));
        prop_assert!(frame.entries().all(|entry| entry.is_ok()));
    }

    #[test]
    fn a_changed_byte_makes_it_no_frame(seed in 0_u64..50, at: prop::sample::Index, bit in 0_u32..8) {
        let mut bytes = encoded(seed);
        let length = FRAME_HEADER + number32(&bytes, 12) as usize;
        // The last bytes of the header are not in use.
        let at = at.index(length);
        prop_assume!(!(32..40).contains(&at));
        bytes[at] ^= 1 << bit;
        prop_assert!(matches!(parse(MARK, &bytes), Parsed::Bad(_)));
    }

    #[test]
    fn a_frame_of_another_log_is_none(seed in 0_u64..50) {
        prop_assert!(matches!(parse(MARK + 1, &encoded(seed)), Parsed::Bad(_)));
    }
}
