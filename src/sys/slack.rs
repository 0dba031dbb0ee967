//! How late the kernel may be on purpose.

/// While this is there, time-outs of this thread end when they are over. Linux otherwise lets them end up to 50 us later
/// (the thread's timer slack), to wake for several at once; the wheel has seen to that already.
pub(crate) struct Precise {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    before: libc::c_int,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Precise {
    pub fn new() -> Precise {
        // SAFETY: these take and return numbers, and concern the calling thread only.
        let before = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) };
        // Zero is that of a real-time thread, which has none, and to set it means something else.
        if before > 0 {
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
        }
        Precise { before }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Drop for Precise {
    fn drop(&mut self) {
        if self.before > 0 {
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, self.before as libc::c_ulong) };
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Precise {
    pub fn new() -> Precise {
        Precise {}
    }
}
