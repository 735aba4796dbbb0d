use proptest::prelude::*;

use super::*;

const SPEC: &str = "[app]\nname = \"shop\"\n[run]\ncommand = [\"./shop\"]\n";

fn path(text: &str) -> EntryPath {
    EntryPath::try_from(text.to_owned()).unwrap()
}

fn file(at: &str) -> Entry {
    let content = FileContent { hash: BlobHash([1; 32]), size: 3, executable: false };
    Entry { path: path(at), content: Content::File(content) }
}

fn link(at: &str, to: &str) -> Entry {
    Entry { path: path(at), content: Content::Link(LinkTarget::try_from(to.to_owned()).unwrap()) }
}

fn manifest(entries: Vec<Entry>) -> Result<ReleaseManifest, ManifestError> {
    ReleaseManifest::new(SPEC, "1", entries)
}

/// A manifest as somebody hostile would write it.
fn decode_with(entries: &str) -> Result<ReleaseManifest, ManifestError> {
    let spec = serde_json::to_string(SPEC).unwrap();
    let text = format!(r#"{{"format":1,"app":"shop","version":"1","spec":{spec},"entries":[{entries}]}}"#);
    ReleaseManifest::decode(text.as_bytes())
}

fn file_text(at: &str) -> String {
    let hash = "01".repeat(32);
    format!(r#"{{"path":{},"file":{{"hash":"{hash}","size":3}}}}"#, serde_json::to_string(at).unwrap())
}

#[test]
fn the_order_in_which_files_are_found_does_not_change_the_release() {
    let one = manifest(vec![file("a"), file("b/c"), link("l", "b/c")]).unwrap();
    let other = manifest(vec![link("l", "b/c"), file("b/c"), file("a")]).unwrap();
    assert_eq!(one.id(), other.id());
    assert_eq!(one.id().0, *blake3::hash(one.bytes()).as_bytes());
}

#[test]
fn a_manifest_survives_its_bytes() {
    let made = manifest(vec![file("bin/shop"), link("bin/alias", "shop")]).unwrap();
    assert_eq!(ReleaseManifest::decode(made.bytes()).unwrap(), made);
    assert_eq!(made.size_bytes(), 3);
    assert_eq!(made.app(), "shop");
}

#[test]
fn what_a_release_is_made_of_changes_its_id() {
    let base = manifest(vec![file("a")]).unwrap().id();
    assert_ne!(manifest(vec![file("b")]).unwrap().id(), base);
    assert_ne!(ReleaseManifest::new(SPEC, "2", vec![file("a")]).unwrap().id(), base);
    let executable = FileContent { hash: BlobHash([1; 32]), size: 3, executable: true };
    let entry = Entry { path: path("a"), content: Content::File(executable) };
    assert_ne!(manifest(vec![entry]).unwrap().id(), base);
}

#[test]
fn a_path_that_leaves_the_release_is_refused() {
    assert!(decode_with(&file_text("a/..b/.c")).is_ok());
    let paths = ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "./a", "a/./b", "a//b", "a/", "", "a\0b"];
    for text in paths {
        assert!(EntryPath::try_from(text.to_owned()).is_err(), "{text:?}");
        let refused = decode_with(&file_text(text));
        assert!(matches!(refused, Err(ManifestError::Malformed(_))), "{text:?}: {refused:?}");
    }
    assert!(EntryPath::try_from("x".repeat(256)).is_err());
    assert!(EntryPath::try_from("x/".repeat(2_000) + "y").is_err());
}

#[test]
fn the_same_path_twice_or_out_of_order_is_refused() {
    let twice = format!("{},{}", file_text("a"), file_text("a"));
    assert!(matches!(decode_with(&twice), Err(ManifestError::Duplicate { .. })));
    let unsorted = format!("{},{}", file_text("b"), file_text("a"));
    assert!(matches!(decode_with(&unsorted), Err(ManifestError::NotSorted { .. })));
}

#[test]
fn nothing_stands_below_a_file_or_a_link() {
    for entries in [vec![file("a"), file("a-b"), file("a/b")], vec![link("d", "."), file("d/x/y")]] {
        assert!(matches!(manifest(entries), Err(ManifestError::BelowAFile { .. })));
    }
}

#[test]
fn a_link_stays_inside_the_release() {
    for (at, to) in [("l", "a"), ("b/l", "../a"), ("b/c/l", "../.."), ("l", "a/b/c"), ("b/l", "./x")] {
        assert!(manifest(vec![file("a"), link(at, to)]).is_ok(), "{at} -> {to}");
    }
    // The last two stay inside by their text alone: where they lead depends on what `a` and `x` are.
    for (at, to) in
        [("l", ".."), ("b/l", "../../a"), ("b/c/l", "../../../x"), ("b/l", "a/../x"), ("l", "x/..")]
    {
        let refused = manifest(vec![file("z"), link(at, to)]);
        assert!(matches!(refused, Err(ManifestError::LinkLeaves { .. })), "{at} -> {to}");
    }
    assert!(LinkTarget::try_from("/etc/passwd".to_owned()).is_err());
}

#[test]
fn entries_of_no_known_kind_are_refused() {
    for entry in [
        r#"{"path":"a","device":{"major":1,"minor":3}}"#,
        r#"{"path":"a"}"#,
        r#"{"path":"a","file":{"hash":"00","size":1}}"#,
        r#"{"path":"a","file":{"hash":"","size":-1}}"#,
    ] {
        assert!(matches!(decode_with(entry), Err(ManifestError::Malformed(_))), "{entry}");
    }
}

#[test]
fn a_release_has_a_bounded_size() {
    let huge = FileContent { hash: BlobHash([1; 32]), size: u64::MAX, executable: false };
    let entries = vec![Entry { path: path("a"), content: Content::File(huge) }, file("b")];
    assert!(matches!(manifest(entries), Err(ManifestError::TooManyBytes)));
    let many = (0..=RELEASE_ENTRIES_MAX).map(|n| file(&format!("{n:06}"))).collect();
    assert!(matches!(manifest(many), Err(ManifestError::TooManyEntries { .. })));
    let long = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert!(matches!(ReleaseManifest::decode(&long), Err(ManifestError::TooLarge { .. })));
    assert!(matches!(manifest(vec![]), Err(ManifestError::Empty)));
}

#[test]
fn a_version_is_printable_and_short() {
    for version in ["", "a b", "a\nb", &"1".repeat(VERSION_BYTES_MAX + 1)] {
        let made = ReleaseManifest::new(SPEC, version, vec![file("a")]);
        assert!(matches!(made, Err(ManifestError::Version { .. })), "{version:?}");
    }
}

#[test]
fn a_manifest_of_another_app_or_format_is_refused() {
    let made = manifest(vec![file("a")]).unwrap();
    let text = String::from_utf8(made.bytes().to_vec()).unwrap();
    let other = text.replace(r#""app":"shop""#, r#""app":"shed""#);
    assert!(matches!(ReleaseManifest::decode(other.as_bytes()), Err(ManifestError::OtherApp { .. })));
    let other = text.replace(r#""format":1"#, r#""format":2"#);
    assert!(matches!(ReleaseManifest::decode(other.as_bytes()), Err(ManifestError::Format { .. })));
}

proptest! {
    #[test]
    fn bytes_from_anywhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _refused = ReleaseManifest::decode(&bytes);
    }

    /// Damage to a good manifest either is noticed or gives another release.
    #[test]
    fn a_damaged_manifest_is_never_taken_for_the_release(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let made = manifest(vec![file("a"), file("b/c"), link("l", "b/c")]).unwrap();
        let mut bytes = made.bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        if let Ok(other) = ReleaseManifest::decode(&bytes) {
            prop_assert_ne!(other.id(), made.id());
        }
    }

    /// Whatever a link's text is: if it is let in, following it part by part never goes above the root.
    #[test]
    fn a_link_that_is_let_in_never_rises_above_the_root(
        depth in 0usize..4,
        target in "((\\.\\.|\\.|a|b)/){0,5}(\\.\\.|a)",
    ) {
        let at = path(&("d/".repeat(depth) + "l"));
        if LinkTarget::try_from(target.clone()).unwrap().stays_inside(&at) {
            let mut level = i64::try_from(depth).unwrap();
            for part in target.split('/') {
                level += match part { ".." => -1, "." => 0, _ => 1 };
                prop_assert!(level >= 0);
            }
        }
    }
}
