//! What the process may do once it has read its configuration (`process.privileges: least`).
//!
//! | it gives up | so that whoever takes it over |
//! | --- | --- |
//! | every capability but those in [`needed`] | is not root in anything but its name |
//! | gaining any by running a program (`no_new_privs`) | gets nowhere by a setuid program |
//! | system calls that no proxy makes ([`REFUSED`]) | starts no program, looks into no other process, loads nothing into the kernel |
//!
//! It happens in the main thread before there is any other: threads inherit all three, and none could give them up for
//! another. So everything that is opened later, at start or at a reload, is opened with what is left, and a file that
//! cannot be read then cannot be read at start either. A system that refuses is told to the log, and serving goes on: a
//! container may have taken these things away already.
//!
//! System calls are refused by a list of those that are never made, and not by one of those that are: ONNX Runtime and a
//! GPU's driver make others from one version to the next, and a proxy that is killed for that serves nobody. Those of the
//! list fail with EPERM. The kernel (5.11 and newer) looks a call that is always allowed up in a table of bits.

use crate::config::{Config, Privileges};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// What is kept, where the process has it, and why.
fn needed(config: &Config) -> Vec<(CapabilitySet, &'static str)> {
    let mut needed = vec![(CapabilitySet::NET_BIND_SERVICE, "listeners below port 1024, which a reload may add")];
    if config.captures() {
        needed.push((CapabilitySet::NET_ADMIN, "capture: the mark on what the proxy itself opens, and TPROXY"));
    }
    needed
}

/// System calls that are refused.
const REFUSED: &[i64] = &[
    // Programs, and other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    // Other views of the system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_setns,
    libc::SYS_unshare,
    // What belongs to the machine.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Gives up what is not needed. Call it while there is one thread.
pub(super) fn give_up(config: &Config) {
    if config.process.privileges == Privileges::Inherited {
        return tracing::info!("privileges: those that the process was started with (`process.privileges: inherited`)");
    }
    let kept = drop_capabilities(config);
    let no_new_privs = said("no_new_privs", set_no_new_privs(true).map_err(|error| error.to_string()));
    let system_calls = said("system calls", refuse_system_calls());
    tracing::info!(kept, no_new_privs, system_calls, "privileges given up");
}

/// Whether it was done, in a word; the log gets what the system said.
fn said(what: &str, done: Result<(), String>) -> &'static str {
    match done {
        Ok(()) => "done",
        Err(error) => {
            tracing::warn!(error, "{what}: the system refuses to take it away");
            "refused"
        }
    }
}

/// Drops all capabilities but those that are needed. Gives those that are left, each with its reason.
fn drop_capabilities(config: &Config) -> String {
    let Ok(had) = capabilities(None) else { return "unknown".to_owned() };
    let needed = needed(config);
    let wanted = needed.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    let left = had.permitted & wanted;
    // The bound on what a program could have; taking from it takes a capability, so it goes first.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for bit in (0..u64::BITS).map(|n| CapabilitySet::from_bits_retain(1 << n)) {
            if !left.contains(bit) && capability_is_in_bounding_set(bit).unwrap_or(false) {
                let _ = remove_capability_from_bounding_set(bit);
            }
        }
    }
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    if let Err(error) = set_capabilities(None, sets) {
        tracing::warn!(%error, "capabilities: the system refuses to take them away");
        return "all".to_owned();
    }
    let name = |one: CapabilitySet| one.iter_names().map(|(name, _)| name.to_lowercase()).collect::<String>();
    let told = needed.iter().filter(|(one, _)| left.contains(*one));
    let told: Vec<String> = told.map(|(one, why)| format!("{} ({why})", name(*one))).collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

fn refuse_system_calls() -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(|error| error.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CaptureMode, Workload};

    /// What `/proc` says of this thread.
    fn status(key: &str) -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    }

    /// In a thread of its own, which takes what it did to itself along.
    fn alone<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn what_is_given_up_is_gone_for_this_thread_and_those_that_it_starts() {
        alone(|| {
            let had = u64::from_str_radix(&status("CapPrm"), 16).unwrap();
            give_up(&Config::default());
            let kept = CapabilitySet::NET_BIND_SERVICE.bits() & had;
            for set in ["CapPrm", "CapEff"] {
                assert_eq!(u64::from_str_radix(&status(set), 16).unwrap(), kept, "{set}");
            }
            assert_eq!((status("NoNewPrivs"), status("Seccomp")), ("1".into(), "2".into()));
            alone(|| {
                assert_eq!(u64::from_str_radix(&status("CapEff"), 16).unwrap(), kept);
                let started = std::process::Command::new("true").status();
                assert_eq!(started.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            });
        });
        assert_eq!(status("Seccomp"), "0", "nobody else");
    }

    #[test]
    fn the_right_to_mark_connections_is_kept_where_some_are_captured() {
        alone(|| {
            let had = u64::from_str_radix(&status("CapPrm"), 16).unwrap();
            let captured = Workload { capture: CaptureMode::Outbound, ..Workload::default() };
            give_up(&Config { workloads: [("a".to_owned(), captured)].into(), ..Config::default() });
            let kept = (CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_ADMIN).bits() & had;
            assert_eq!(u64::from_str_radix(&status("CapEff"), 16).unwrap(), kept);
        });
    }

    #[test]
    fn who_wants_to_keep_what_there_is_keeps_it() {
        alone(|| {
            let before = (status("CapPrm"), status("NoNewPrivs"), status("Seccomp"));
            let mut config = Config::default();
            config.process.privileges = Privileges::Inherited;
            give_up(&config);
            assert_eq!((status("CapPrm"), status("NoNewPrivs"), status("Seccomp")), before);
        });
    }
}
