//! Which processors a thread may run on.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod native {
    use super::super::check;
    use std::io;
    use std::mem;

    pub type Set = libc::cpu_set_t;

    pub fn get() -> io::Result<Set> {
        // SAFETY: all zeros is the empty set; the kernel fills it, and no more than its size.
        unsafe {
            let mut set: Set = mem::zeroed();
            check(libc::sched_getaffinity(0, mem::size_of::<Set>(), &mut set))?;
            Ok(set)
        }
    }

    pub fn set(set: &Set) -> io::Result<()> {
        // SAFETY: `set` is valid for its size. 0 is the calling thread.
        check(unsafe { libc::sched_setaffinity(0, mem::size_of::<Set>(), set) }).map(drop)
    }
}

#[cfg(target_os = "freebsd")]
mod native {
    use super::super::check;
    use std::io;
    use std::mem;

    pub type Set = libc::cpuset_t;

    pub fn get() -> io::Result<Set> {
        // SAFETY: all zeros is the empty set; the kernel fills it, and no more than its size. -1 is the calling thread.
        unsafe {
            let mut set: Set = mem::zeroed();
            check(libc::cpuset_getaffinity(
                libc::CPU_LEVEL_WHICH,
                libc::CPU_WHICH_TID,
                -1,
                mem::size_of::<Set>(),
                &mut set,
            ))?;
            Ok(set)
        }
    }

    pub fn set(set: &Set) -> io::Result<()> {
        // SAFETY: `set` is valid for its size. -1 is the calling thread.
        check(unsafe {
            libc::cpuset_setaffinity(
                libc::CPU_LEVEL_WHICH,
                libc::CPU_WHICH_TID,
                -1,
                mem::size_of::<Set>(),
                set,
            )
        })
        .map(drop)
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod pinning {
    use super::native::{self, Set};
    use std::io;
    use std::mem;

    fn processors(set: &Set) -> Vec<usize> {
        // SAFETY: CPU_ISSET reads the bit of a number that lies within the set.
        (0..8 * mem::size_of::<Set>()).filter(|&i| unsafe { libc::CPU_ISSET(i, set) }).collect()
    }

    /// The processors that this thread may run on, in order. At least one.
    pub fn allowed() -> io::Result<Vec<usize>> {
        Ok(processors(&native::get()?))
    }

    /// Keeps this thread on `processor`, and makes sure of it.
    pub fn pin(processor: usize) -> io::Result<()> {
        // SAFETY: all zeros is the empty set, and the number is one of `allowed`, so it lies within the set.
        let set = unsafe {
            let mut set: Set = mem::zeroed();
            libc::CPU_SET(processor, &mut set);
            set
        };
        native::set(&set)?;
        let got = allowed()?;
        if got != [processor] {
            let text = format!("asked for processor {processor}, the system gave {got:?}");
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    /// Puts back what the thread may run on now, when it is dropped.
    pub struct Restore(Set);

    pub fn restore_later() -> io::Result<Restore> {
        native::get().map(Restore)
    }

    impl Drop for Restore {
        fn drop(&mut self) {
            // It was allowed before.
            let _ = native::set(&self.0);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) use pinning::{allowed, pin, restore_later};

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
mod unsupported {
    use std::io;

    pub struct Restore;

    pub fn allowed() -> io::Result<Vec<usize>> {
        Err(unsupported())
    }

    pub fn pin(_processor: usize) -> io::Result<()> {
        Err(unsupported())
    }

    pub fn restore_later() -> io::Result<Restore> {
        Err(unsupported())
    }

    fn unsupported() -> io::Error {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "this system has no way to keep a thread on one processor: leave `pinned` out",
        )
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(crate) use unsupported::{allowed, pin, restore_later};
