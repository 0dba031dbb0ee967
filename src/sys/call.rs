//! The system calls of every message, as they are.
//!
//! glibc's functions of these names are cancellation points (pthreads(7)): once a process has a second thread, each of
//! them says before and after it, by a locked instruction, whether the thread may be cancelled. Nobody cancels a thread that
//! runs Rust code, and here it would cost a hundredth of what a message does.

pub(super) use calls::{recv, send};

#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod calls {
    use libc::{SYS_recvfrom, SYS_sendto, c_int, c_long, c_void, size_t, ssize_t, syscall};

    const NO_ADDR: *mut c_void = std::ptr::null_mut();

    /// # Safety
    ///
    /// As for recv(2): `buf` is valid for writes of `len` bytes.
    #[inline]
    pub unsafe fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the arguments of recvfrom(2), in its order; the kernel writes to `buf`, as the caller allows, and to no address.
        unsafe {
            syscall(SYS_recvfrom, c_long::from(fd), buf, len, c_long::from(flags), NO_ADDR, NO_ADDR)
                as ssize_t
        }
    }

    /// # Safety
    ///
    /// As for send(2): `buf` is valid for reads of `len` bytes.
    #[inline]
    pub unsafe fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the arguments of sendto(2), in its order; the kernel reads from `buf`, as the caller allows, and no address.
        unsafe {
            syscall(SYS_sendto, c_long::from(fd), buf, len, c_long::from(flags), NO_ADDR, 0 as c_long)
                as ssize_t
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
mod calls {
    pub use libc::{recv, send};
}
