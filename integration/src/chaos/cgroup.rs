//! Limits and frozen threads by the kernel's control groups, where they may be made: version 1 or 2 for memory, version 1 for
//! freezing a thread.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// A group of this process's own, removed when dropped.
#[derive(Debug)]
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, name: &str) -> Result<Self, String> {
        let path = Path::new(ROOT).join(controller).join(format!("pathloom-chaos-{}-{name}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        let path = self.0.join(file);
        fs::write(&path, value).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What it held has ended.
        let _ = fs::remove_dir(&self.0);
    }
}

fn is_v1(controller: &str) -> bool {
    Path::new(ROOT).join(controller).join("tasks").exists()
}

/// A limit of memory for some processes together.
#[derive(Debug)]
pub struct Memory(Group);

impl Memory {
    /// So many bytes.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn limit(name: &str, bytes: u64) -> Result<Self, String> {
        let v1 = is_v1("memory");
        let group = Group::new(if v1 { "memory" } else { "" }, name)?;
        group.write(if v1 { "memory.limit_in_bytes" } else { "memory.max" }, &bytes.to_string())?;
        Ok(Self(group))
    }

    /// Puts a process in.
    ///
    /// # Errors
    /// When it is gone.
    pub fn add(&self, process: u32) -> Result<(), String> {
        self.0.write("cgroup.procs", &process.to_string())
    }

    /// The most that they ever had together, in bytes.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(self.0.0.join(file)).ok()?.trim().parse().ok();
        read("memory.max_usage_in_bytes").or_else(|| read("memory.peak"))
    }
}

/// Freezes threads.
#[derive(Debug)]
pub struct Freezer(Group);

impl Freezer {
    /// One that freezes nothing yet.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn new() -> Result<Self, String> {
        if !is_v1("freezer") {
            return Err("only version 1 of control groups freezes a single thread".to_owned());
        }
        Group::new("freezer", "thread").map(Self)
    }

    /// Freezes a thread.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self, thread: u32) -> Result<(), String> {
        self.0.write("tasks", &thread.to_string())?;
        self.0.write("freezer.state", "FROZEN")
    }

    /// Lets all go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> Result<(), String> {
        self.0.write("freezer.state", "THAWED")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.thaw();
        // A group with threads in it cannot be removed.
        let root = Path::new(ROOT).join("freezer/tasks");
        for thread in fs::read_to_string(self.0.0.join("tasks")).unwrap_or_default().lines() {
            let _ = fs::write(&root, thread);
        }
    }
}

/// The threads of this name in a process.
#[must_use]
pub fn threads(process: u32, name: &str) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let named = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|n| n.trim() == name);
    tasks.flatten().filter(named).filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}
