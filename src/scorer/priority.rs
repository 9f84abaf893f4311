//! The scoring thread gives way: where requests want a core, they come first.
//!
//! An inference keeps a core busy for milliseconds. On a machine with as many serving threads as cores it would take one of
//! them its turn, and what waits in that thread waits with it. So the scoring thread makes itself `NICER`: the kernel then
//! prefers a waking serving thread, at once or when the scorer's slice of a few milliseconds is over, and leaves the
//! scorer about a tenth of a core that others want all of. Raising one's own niceness needs no privilege.
//!
//! Not `SCHED_IDLE`: on a machine that is busy throughout it would starve the model, and the ladder would steer
//! without it just when it matters. On Linux niceness belongs to a thread, and threads inherit it, so the engines' own
//! pools and CUDA's helpers have it too, since the thread that opens the engine starts them. Elsewhere it belongs to the
//! process, and nothing is done.

/// By so much the scoring thread is nicer than the process: of a core that both want, it gets about a tenth.
const NICER: i32 = 10;

/// Makes the calling thread give way to the others of this process. Call it once a thread.
pub(super) fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "the scoring thread keeps its priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn only_the_thread_that_gives_way_is_nicer() {
        let ours = getpriority_process(None).unwrap();
        let theirs = std::thread::spawn(|| {
            give_way();
            let inherited = std::thread::spawn(|| getpriority_process(None).unwrap()).join().unwrap();
            (getpriority_process(None).unwrap(), inherited)
        });
        let wanted = (ours + NICER).min(19);
        assert_eq!(theirs.join().unwrap(), (wanted, wanted));
        assert_eq!(getpriority_process(None).unwrap(), ours);
    }
}
