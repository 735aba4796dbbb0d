//! Where a key lives: Redis Cluster's slots, cut into as many ranges as there are groups.
//!
//! The hash is Redis Cluster's so that its {hash tags} mean here what they mean there: keys with the
//! same tag share a slot, hence a group, hence take effect together.

use proto::ids::GroupId;

/// Slots of the key space; Redis Cluster's number.
pub const SLOTS: u16 = 16_384;

/// The slot of a key: CRC16 (XMODEM) of its hash tag or, without one, of all of it
/// (Redis Cluster specification, "Hash tags").
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// The group that holds a slot when there are `groups` of them, numbered from 1. Group 0 is the
/// control log.
///
/// # Panics
/// When there are no groups: a cluster is founded with at least one.
pub fn group_of(slot: u16, groups: u16) -> GroupId {
    assert!(groups > 0, "a cluster has at least one session group");
    let index = u32::from(slot % SLOTS) * u32::from(groups) / u32::from(SLOTS);
    GroupId(u16::try_from(index).expect("less than `groups`, which is a u16") + 1)
}

/// What stands between the first `{` and the first `}` after it, unless that is nothing.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from((crc >> 8) ^ u16::from(*byte));
        (crc << 8) ^ TABLE[index]
    })
}

/// Polynomial 0x1021, most significant bit first, start value 0.
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_xmodems() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // As CLUSTER KEYSLOT of Redis 7 answers.
        for (key, expected) in [
            ("", 0),
            ("foo", 12_182),
            ("bar", 5_061),
            ("hello", 866),
            ("somekey", 11_058),
            ("foo{hash_tag}", 2_515),
            ("bar{hash_tag}", 2_515),
            ("hash_tag", 2_515),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_tag_counts_only_when_it_is_closed_and_not_empty() {
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
    }

    #[test]
    fn every_group_gets_its_share_of_the_slots() {
        for groups in [1u16, 3, 16, 64, 256, 1_000] {
            let mut held = vec![0u32; usize::from(groups)];
            for slot in 0..SLOTS {
                held[usize::from(group_of(slot, groups).0) - 1] += 1;
            }
            let (min, max) = (held.iter().min().unwrap(), held.iter().max().unwrap());
            assert!(max - min <= 1, "{groups} groups: {min}..{max}");
        }
    }

    proptest! {
        #[test]
        fn any_key_has_a_slot_and_a_group(key in prop::collection::vec(any::<u8>(), 0..64), groups in 1u16..) {
            let slot = slot(&key);
            prop_assert!(slot < SLOTS);
            let group = group_of(slot, groups);
            prop_assert!((1..=groups).contains(&group.0));
        }

        #[test]
        fn keys_with_one_tag_live_together(
            tag in "[a-z]{1,8}", before in "[a-z]{0,8}", after in "[a-z{}]{0,8}",
        ) {
            prop_assert_eq!(slot(format!("{before}{{{tag}}}{after}").as_bytes()), slot(tag.as_bytes()));
        }
    }
}
