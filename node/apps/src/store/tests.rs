use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::manifest::{Content, Entry, EntryPath, LinkTarget};

const SPEC: &str = "[app]\nname = \"shop\"\n[run]\ncommand = [\"./shop\"]\n";
const NO_TIME: Duration = Duration::ZERO;

struct Fixture {
    folder: tempfile::TempDir,
    store: ReleaseStore,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ReleaseStore::open(folder.path()).unwrap();
        Self { folder, store }
    }

    fn reopened(self) -> Self {
        let store = ReleaseStore::open(self.folder.path()).unwrap();
        Self { store, ..self }
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.store.inner.blob_path(FileKey { hash: hash(bytes), executable: false })
    }

    /// Everything below a folder of the store.
    fn count(&self, folder: &str) -> usize {
        fn count(path: &Path) -> usize {
            if path.is_dir() { list(path).unwrap().iter().map(|path| count(path)).sum() } else { 1 }
        }
        count(&self.folder.path().join(folder))
    }

    fn commit(&self, version: &str, files: &[(&str, &[u8])]) -> ReleaseId {
        let receiving = self.store.receive();
        let entries = files.iter().map(|(path, bytes)| {
            let executable = path.starts_with("bin/");
            let content = put(&receiving, None, bytes, executable).unwrap().content;
            entry(path, Content::File(content))
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.push(entry("alias", Content::Link(LinkTarget::try_from("a".to_owned()).unwrap())));
        receiving.commit(&ReleaseManifest::new(SPEC, version, entries).unwrap()).unwrap()
    }
}

fn entry(path: &str, content: Content) -> Entry {
    Entry { path: EntryPath::try_from(path.to_owned()).unwrap(), content }
}

fn hash(bytes: &[u8]) -> BlobHash {
    BlobHash(*blake3::hash(bytes).as_bytes())
}

fn put(
    receiving: &Receiving,
    expected: Option<BlobHash>,
    bytes: &[u8],
    executable: bool,
) -> Result<Stored, StoreError> {
    let mut writer = receiving.file(expected, bytes.len() as u64, executable)?;
    for chunk in bytes.chunks(3) {
        writer.write(chunk)?;
    }
    receiving.keep(writer)
}

/// Overwrites a read-only file in place, as a bad disk or a forceful app would.
fn damage(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"!").unwrap();
}

#[test]
fn a_release_survives_a_reopen_and_can_be_run() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"text"), ("bin/run", b"#!/bin/sh\n"), ("d/e/f", b"")]);
    let fixture = fixture.reopened();
    assert!(fixture.store.has(release));
    let folder = fixture.store.unpack(release, false).unwrap();
    assert_eq!(fs::read(folder.join("alias")).unwrap(), b"text");
    assert_eq!(fs::read(folder.join("d/e/f")).unwrap(), b"");
    let mode = |path: &str| fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("bin/run")), (0o444, 0o555));
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(folder.join("a")), inode(fixture.blob(b"text")));
}

#[test]
fn the_same_bytes_are_kept_once() {
    let fixture = Fixture::new();
    fixture.commit("1", &[("a", b"same"), ("b", b"same")]);
    fixture.commit("2", &[("a", b"same"), ("c", b"other")]);
    assert_eq!(fixture.count("blobs"), 2);
    let receiving = fixture.store.receive();
    assert!(!put(&receiving, None, b"same", false).unwrap().new);
    assert!(put(&receiving, None, b"same", true).unwrap().new, "the mode is the file's");
}

#[test]
fn other_bytes_than_announced_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let receiving = fixture.store.receive();
    let wrong = put(&receiving, Some(hash(b"good")), b"evil", false);
    assert!(matches!(wrong, Err(StoreError::WrongContent { .. })));
    let writer = receiving.file(None, 4, false).unwrap();
    assert!(matches!(receiving.keep(writer), Err(StoreError::WrongSize { size: 4 })));
    let mut writer = receiving.file(None, 2, false).unwrap();
    assert!(matches!(writer.write(b"long"), Err(StoreError::WrongSize { size: 2 })));
    drop(writer);
    assert!(matches!(receiving.file(None, u64::MAX, false), Err(StoreError::NoSpace { .. })));
    assert_eq!((fixture.count("incoming"), fixture.count("blobs")), (0, 0));
}

#[test]
fn a_release_with_a_missing_file_is_not_committed() {
    let fixture = Fixture::new();
    let content = FileContent { hash: hash(b"absent"), size: 6, executable: false };
    let manifest = ReleaseManifest::new(SPEC, "1", vec![entry("a", Content::File(content))]).unwrap();
    let receiving = fixture.store.receive();
    assert_eq!(receiving.missing(&manifest), [content]);
    assert!(matches!(receiving.commit(&manifest), Err(StoreError::NotWhole { missing: 1, .. })));
    put(&receiving, Some(content.hash), b"absent", false).unwrap();
    assert_eq!(receiving.commit(&manifest).unwrap(), manifest.id());
    assert_eq!(fixture.store.manifest(manifest.id()).unwrap(), manifest);
}

#[test]
fn what_a_kill_left_half_written_is_gone_at_the_next_start() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"whole")]);
    let receiving = fixture.store.receive();
    let mut writer = receiving.file(None, 100, false).unwrap();
    writer.write(b"half").unwrap();
    put(&receiving, None, b"of no release", false).unwrap();
    // Killed here: nothing is dropped.
    std::mem::forget((writer, receiving));
    fs::create_dir_all(fixture.folder.path().join("incoming/9/half-unpacked")).unwrap();
    assert_eq!(fixture.count("incoming"), 1);
    let fixture = fixture.reopened();
    assert_eq!(list(&fixture.store.inner.incoming()).unwrap().len(), 0);
    assert!(fixture.store.has(release));
    fixture.store.collect(&BTreeSet::from([release]), NO_TIME).unwrap();
    assert_eq!(fixture.count("blobs"), 1);
    assert_eq!(fixture.store.verify(release).unwrap(), []);
}

#[test]
fn a_damaged_file_is_found_fetched_again_and_the_folder_is_made_anew() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"text"), ("b", b"more")]);
    let folder = fixture.store.unpack(release, false).unwrap();
    // The app forces its way to its own file, and so to the blob.
    damage(&folder.join("a"));
    assert_eq!(fs::read(fixture.blob(b"text")).unwrap(), b"!ext");
    let missing = fixture.store.verify(release).unwrap();
    assert_eq!(missing.iter().map(|content| content.hash).collect::<Vec<_>>(), [hash(b"text")]);
    assert!(!fixture.store.has(release));
    let receiving = fixture.store.receive();
    put(&receiving, Some(hash(b"text")), b"text", false).unwrap();
    receiving.commit(&fixture.store.manifest(release).unwrap()).unwrap();
    assert_eq!(fixture.store.verify(release).unwrap(), []);
    assert!(fixture.store.has(release));
    assert_eq!(fs::read(fixture.store.unpack(release, false).unwrap().join("a")).unwrap(), b"text");
}

#[test]
fn a_damaged_blob_is_replaced_by_a_good_upload_of_the_same_bytes() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"text")]);
    damage(&fixture.blob(b"text"));
    assert_eq!(fixture.commit("1", &[("a", b"text")]), release);
    assert_eq!(fixture.store.verify(release).unwrap(), []);
}

#[test]
fn a_damaged_blob_that_a_reader_found_makes_its_releases_incomplete() {
    let fixture = Fixture::new();
    let damaged = fixture.commit("1", &[("a", b"text")]);
    let sound = fixture.commit("2", &[("a", b"other")]);
    damage(&fixture.blob(b"text"));
    fixture.store.discard(hash(b"text")).unwrap();
    assert_eq!((fixture.store.has(damaged), fixture.store.has(sound)), (false, true));
    assert!(fixture.store.open_blob(hash(b"text")).unwrap().is_none());
    let watched = fixture.store.watch().borrow().clone();
    assert_eq!(*watched, BTreeSet::from([sound]));
}

#[test]
fn a_damaged_manifest_counts_as_missing() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"text")]);
    damage(&fixture.store.inner.manifest_path(release));
    let fixture = fixture.reopened();
    assert!(!fixture.store.has(release));
    assert!(matches!(fixture.store.manifest(release), Err(StoreError::UnknownRelease { .. })));
}

#[test]
fn a_manifest_can_be_read_as_the_blob_of_its_id() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("bin/a", b"text")]);
    let (mut file, size) = fixture.store.open_blob(release.into()).unwrap().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!((hash(&bytes).0, bytes.len() as u64), (release.0, size));
    assert!(fixture.store.open_blob(hash(b"text")).unwrap().is_some(), "an executable is a blob too");
}

#[test]
fn only_what_nothing_needs_is_collected() {
    let fixture = Fixture::new();
    let old = fixture.commit("1", &[("a", b"shared"), ("b", b"old")]);
    let new = fixture.commit("2", &[("a", b"shared"), ("b", b"new")]);
    fixture.store.unpack(old, false).unwrap();
    let upload = fixture.store.receive();
    put(&upload, None, b"being taken in", false).unwrap();
    let keep = BTreeSet::from([new]);
    assert_eq!(fixture.store.collect(&keep, Duration::from_secs(3_600)).unwrap(), 0);
    assert!(fixture.store.has(old), "too young to go");
    assert_eq!(fixture.store.collect(&keep, NO_TIME).unwrap(), 3);
    assert_eq!((fixture.store.has(old), fixture.store.has(new)), (false, true));
    assert_eq!((fixture.count("blobs"), fixture.count("releases")), (3, 0));
    assert_eq!(fixture.store.verify(new).unwrap(), []);
    drop(upload);
    assert_eq!(fixture.store.collect(&keep, NO_TIME).unwrap(), b"being taken in".len() as u64);
}

#[test]
fn a_manifest_that_can_not_be_read_stops_the_collection_and_not_the_start() {
    let fixture = Fixture::new();
    let sound = fixture.commit("1", &[("a", b"text")]);
    // As a later version may write it: the bytes are what they should be.
    let foreign = ReleaseId(hash(b"of another version").0);
    let path = fixture.store.inner.manifest_path(foreign);
    fs::write(&path, b"of another version").unwrap();
    let folder = fixture.store.inner.releases().join(foreign.to_string());
    fs::create_dir(&folder).unwrap();
    let fixture = fixture.reopened();
    assert_eq!((fixture.store.has(sound), fixture.store.has(foreign)), (true, false));
    let receiving = fixture.store.receive();
    put(&receiving, None, b"perhaps the other version's", false).unwrap();
    drop(receiving);
    let collected = fixture.store.collect(&BTreeSet::from([foreign]), NO_TIME);
    assert!(matches!(collected, Err(StoreError::Manifest(_))), "{collected:?}");
    assert!(fixture.store.has(sound) && path.exists());
    assert_eq!(fixture.count("blobs"), 2);
    // Its folder stays too, for as long as the release is wanted.
    fs::remove_file(&path).unwrap();
    fixture.store.collect(&BTreeSet::from([foreign]), NO_TIME).unwrap();
    assert!(folder.exists());
    fixture.store.collect(&BTreeSet::new(), NO_TIME).unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_file_that_can_not_be_looked_at_is_not_taken_for_damaged() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"text")]);
    // What can be opened and not be read, whoever asks: no fault of the disk, and none of the bytes.
    let blob = fixture.blob(b"text");
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    assert!(matches!(fixture.store.verify(release), Err(StoreError::Io { .. })));
    assert!(blob.exists());
}

#[test]
fn a_damaged_folder_that_is_in_use_is_left_to_whoever_runs_in_it() {
    let fixture = Fixture::new();
    let release = fixture.commit("1", &[("a", b"text")]);
    let folder = fixture.store.unpack(release, false).unwrap();
    let running = fs::File::open(&folder).unwrap();
    fs::remove_file(folder.join("a")).unwrap();
    fs::write(folder.join("of the app"), b"x").unwrap();
    assert_eq!(fixture.store.unpack(release, true).unwrap(), folder);
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"text");
    let aside = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&running)));
    assert_eq!(fs::read(aside.join("of the app")).unwrap(), b"x");
    let folders = || list(&fixture.store.inner.releases()).unwrap().len();
    fixture.store.collect(&BTreeSet::from([release]), NO_TIME).unwrap();
    assert_eq!(folders(), 2);
    let fixture = fixture.reopened();
    assert_eq!(list(&fixture.store.inner.releases()).unwrap(), [folder]);
}
