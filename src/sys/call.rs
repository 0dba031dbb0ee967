//! recv(2) and send(2), as the kernel has them: they return how many bytes were moved, or the number of an error, negated.
//!
//! glibc's functions of these names are cancellation points (pthreads(7)): once a process has a second thread, each of
//! them says before and after it, by a locked instruction, whether the thread may be cancelled. Nobody cancels a thread that
//! runs Rust code, and here it would cost a hundredth of what a message does.

pub(super) use calls::{recv, send};

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"))]
mod calls {
    use libc::{SYS_recvfrom, SYS_sendto, c_int, c_long};
    use std::arch::asm;

    /// # Safety
    ///
    /// `buf` is valid for writes of `len` bytes.
    #[inline(always)]
    pub unsafe fn recv(fd: c_int, buf: *mut u8, len: usize, flags: c_int) -> isize {
        // SAFETY: recvfrom(2) without an address writes to these bytes only.
        unsafe { transfer(SYS_recvfrom, fd, buf, len, flags) }
    }

    /// # Safety
    ///
    /// `buf` is valid for reads of `len` bytes.
    #[inline(always)]
    pub unsafe fn send(fd: c_int, buf: *const u8, len: usize, flags: c_int) -> isize {
        // SAFETY: sendto(2) without an address reads from these bytes only.
        unsafe { transfer(SYS_sendto, fd, buf.cast_mut(), len, flags) }
    }

    /// recvfrom(2) or sendto(2), without an address.
    ///
    /// # Safety
    ///
    /// That of the call.
    #[inline(always)]
    unsafe fn transfer(number: c_long, fd: c_int, buf: *mut u8, len: usize, flags: c_int) -> isize {
        let moved;
        // SAFETY: the registers are those of syscall(2) for x86-64. The kernel changes rax, rcx and r11, and memory as the caller
        // allows; it keeps the flags, and uses none of our stack.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number as isize => moved,
                in("edi") fd,
                in("rsi") buf,
                in("rdx") len,
                in("r10") flags as isize,
                in("r8") 0usize,
                in("r9") 0usize,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack, preserves_flags),
            );
        }
        moved
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
mod calls {
    use libc::{c_int, ssize_t};
    use std::io;

    /// # Safety
    ///
    /// `buf` is valid for writes of `len` bytes.
    #[inline(always)]
    pub unsafe fn recv(fd: c_int, buf: *mut u8, len: usize, flags: c_int) -> isize {
        // SAFETY: as the caller promises.
        moved(unsafe { libc::recv(fd, buf.cast(), len, flags) })
    }

    /// # Safety
    ///
    /// `buf` is valid for reads of `len` bytes.
    #[inline(always)]
    pub unsafe fn send(fd: c_int, buf: *const u8, len: usize, flags: c_int) -> isize {
        // SAFETY: as the caller promises.
        moved(unsafe { libc::send(fd, buf.cast(), len, flags) })
    }

    #[inline(always)]
    fn moved(n: ssize_t) -> isize {
        if n < 0 { error() } else { n }
    }

    #[cold]
    fn error() -> isize {
        -(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) as isize)
    }
}
