//! Where tests have the files of their Unix sockets.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// A directory of a test's own. Removed with the value.
pub struct Dir(PathBuf);

impl Dir {
    /// `test` has to be another one for each test of a program.
    #[track_caller]
    pub fn new(test: &str) -> Dir {
        let program = env!("CARGO_CRATE_NAME");
        let dir = env::temp_dir().join(format!("wakewheel-{program}-{test}-{}", process::id()));
        fs::create_dir(&dir).expect("a new directory");
        Dir(dir)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
