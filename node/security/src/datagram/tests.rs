use proptest::prelude::*;

use super::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn pair(node: u64, generation: u64) -> (Sealer, Opener) {
    let key = GossipKey::generate();
    let sealer = Sealer::new(&key, CLUSTER, NodeId(node), Generation(generation));
    (sealer, Opener::new(key, CLUSTER))
}

fn sealed(sealer: &mut Sealer, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sealer.seal(payload, &mut out).unwrap();
    out
}

#[test]
fn a_datagram_arrives_with_its_sender_and_generation() {
    let (mut sealer, mut opener) = pair(3, 9);
    let opened = opener.open(&sealed(&mut sealer, b"kelp")).unwrap();
    assert_eq!(opened, Opened { sender: NodeId(3), generation: Generation(9), payload: b"kelp".to_vec() });
}

#[test]
fn a_datagram_is_opened_once() {
    let (mut sealer, mut opener) = pair(3, 9);
    let first = sealed(&mut sealer, b"one");
    let second = sealed(&mut sealer, b"two");
    opener.open(&second).unwrap();
    opener.open(&first).unwrap();
    assert_eq!(opener.open(&first), Err(OpenError::Replayed));
    assert_eq!(opener.open(&second), Err(OpenError::Replayed));
}

#[test]
fn a_datagram_that_is_older_than_the_window_is_refused() {
    let (mut sealer, mut opener) = pair(3, 9);
    let old = sealed(&mut sealer, b"old");
    for _ in 0..WINDOW_PACKETS {
        opener.open(&sealed(&mut sealer, b"new")).unwrap();
    }
    assert_eq!(opener.open(&old), Err(OpenError::Replayed));
}

#[test]
fn an_earlier_life_is_refused_after_a_later_one_spoke() {
    let key = GossipKey::generate();
    let mut opener = Opener::new(key.clone(), CLUSTER);
    let mut before = Sealer::new(&key, CLUSTER, NodeId(3), Generation(1));
    let mut after = Sealer::new(&key, CLUSTER, NodeId(3), Generation(2));
    opener.open(&sealed(&mut before, b"a")).unwrap();
    opener.open(&sealed(&mut after, b"b")).unwrap();
    assert_eq!(opener.open(&sealed(&mut before, b"c")), Err(OpenError::Stale));
}

#[test]
fn a_datagram_of_another_cluster_or_key_is_forged() {
    let (mut sealer, _) = pair(3, 9);
    let datagram = sealed(&mut sealer, b"kelp");
    let mut strange_key = Opener::new(GossipKey::generate(), CLUSTER);
    assert_eq!(strange_key.open(&datagram), Err(OpenError::Forged));

    let key = GossipKey::generate();
    let mut elsewhere = Sealer::new(&key, ClusterId([8; 16]), NodeId(3), Generation(9));
    let mut opener = Opener::new(key, CLUSTER);
    assert_eq!(opener.open(&sealed(&mut elsewhere, b"kelp")), Err(OpenError::Forged));
}

#[test]
fn forged_datagrams_leave_nothing_behind() {
    let (_, mut opener) = pair(3, 9);
    for node in 0..100u64 {
        let mut datagram = vec![0; DATAGRAM_OVERHEAD_BYTES + 10];
        datagram[0] = VERSION;
        datagram[9] = u8::try_from(node).unwrap();
        assert_eq!(opener.open(&datagram), Err(OpenError::Forged));
    }
    assert!(opener.senders.is_empty());
}

#[test]
fn the_sender_that_has_been_silent_the_longest_makes_room_for_a_new_one() {
    let key = GossipKey::generate();
    let sealer = |node| Sealer::new(&key, CLUSTER, NodeId(node), Generation(1));
    let mut opener = Opener::new(key.clone(), CLUSTER);
    let mut first = sealer(1);
    let members = u64::try_from(MEMBERS_MAX).unwrap();
    let early = sealed(&mut first, b"early");
    opener.open(&early).unwrap();
    let mut others: Vec<Sealer> = (2..=members).map(sealer).collect();
    for other in &mut others {
        opener.open(&sealed(other, b"x")).unwrap();
    }
    opener.open(&sealed(&mut first, b"again")).unwrap();
    opener.open(&sealed(&mut sealer(members + 1), b"new")).unwrap();
    assert_eq!(opener.senders.len(), MEMBERS_MAX);
    assert_eq!(opener.open(&early), Err(OpenError::Replayed), "the first was heard after the second");
    assert!(!opener.senders.contains_key(&NodeId(2)));
}

#[test]
fn a_payload_that_does_not_fit_is_refused_not_cut() {
    let (mut sealer, _) = pair(3, 9);
    let mut out = Vec::new();
    let most = DATAGRAM_BYTES_MAX - DATAGRAM_OVERHEAD_BYTES;
    assert_eq!(sealer.seal(&vec![0; most], &mut out), Ok(()));
    assert_eq!(out.len(), DATAGRAM_BYTES_MAX);
    assert_eq!(sealer.seal(&vec![0; most + 1], &mut out), Err(OpenError::Size));
}

proptest! {
    #[test]
    fn an_altered_datagram_is_never_opened(
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let (mut sealer, mut opener) = pair(3, 9);
        let mut datagram = sealed(&mut sealer, &payload);
        let at = at.index(datagram.len());
        datagram[at] ^= 1 << bit;
        prop_assert!(opener.open(&datagram).is_err());
    }

    #[test]
    fn no_bytes_make_the_opener_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let (_, mut opener) = pair(3, 9);
        prop_assert!(opener.open(&bytes).is_err());
    }

    #[test]
    fn in_any_order_each_datagram_of_a_window_is_opened_exactly_once(
        order in Just((0..60usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (mut sealer, mut opener) = pair(3, 9);
        let datagrams: Vec<_> = (0..60u8).map(|n| sealed(&mut sealer, &[n])).collect();
        for index in order {
            prop_assert!(opener.open(&datagrams[index]).is_ok());
            prop_assert_eq!(opener.open(&datagrams[index]), Err(OpenError::Replayed));
        }
    }
}
