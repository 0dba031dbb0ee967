//! Whether the process has a second thread.

#[cfg(not(loom))]
pub(crate) use known::ask;
pub(crate) use known::is_alone;

#[cfg(all(target_os = "linux", target_env = "gnu", not(loom)))]
mod known {
    use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

    static UNKNOWN: AtomicU8 = AtomicU8::new(0);
    /// glibc's `__libc_single_threaded`, once it has been found.
    static SAYS: AtomicPtr<AtomicU8> = AtomicPtr::new((&raw const UNKNOWN).cast_mut());

    /// To be called before [`is_alone`] can say so.
    pub fn ask() {
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
        if !found.is_null() {
            SAYS.store(found.cast(), Ordering::Relaxed);
        }
    }

    /// Is the calling thread the only one of its process? Then nobody can be in a critical section, and nobody comes before this
    /// thread has made another one. `false` from then on; and where it is not known.
    #[inline(always)]
    pub fn is_alone() -> bool {
        // SAFETY: it points to `UNKNOWN`, or to a `char` that is there as long as glibc. That is changed by a thread that is alone,
        // when it makes another one.
        unsafe { &*SAYS.load(Ordering::Relaxed) }.load(Ordering::Relaxed) != 0
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(loom))))]
mod known {
    #[cfg_attr(loom, expect(dead_code, reason = "nobody is alone in a model"))]
    pub fn ask() {}

    #[inline(always)]
    pub fn is_alone() -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu", not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    static WAS_ALONE: AtomicBool = AtomicBool::new(false);

    extern "C" fn look() {
        ask();
        WAS_ALONE.store(is_alone(), Ordering::Relaxed);
    }

    // SAFETY: a function for the start of the program, in the section of those. It needs nothing that would not be there yet.
    #[unsafe(link_section = ".init_array")]
    #[used]
    static BEFORE_MAIN: extern "C" fn() = look;

    #[test]
    fn the_first_thread_is_alone_until_it_starts_another() {
        assert!(WAS_ALONE.load(Ordering::Relaxed));
        assert!(!is_alone());
    }
}
