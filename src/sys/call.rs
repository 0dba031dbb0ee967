//! The system calls of every message, as the kernel has them: they return what they have done, or the number of an error,
//! negated.
//!
//! glibc's functions of these names are cancellation points (pthreads(7)): once a process has a second thread, each of
//! them says before and after it, by a locked instruction, whether the thread may be cancelled. Nobody cancels a thread that
//! runs Rust code, and here it would cost a hundredth of what a message does. (epoll_ctl(2) is none. To call
//! it here spares some ten instructions, of less than 120 for an event that goes.)

pub(super) use calls::*;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"))]
mod calls {
    use libc::{c_int, c_long};
    use std::arch::asm;

    /// # Safety
    ///
    /// `buf` is valid for writes of `len` bytes.
    #[inline(always)]
    pub unsafe fn recv(fd: c_int, buf: *mut u8, len: usize, flags: c_int) -> isize {
        // SAFETY: recvfrom(2) without an address writes to these bytes only.
        unsafe { call(libc::SYS_recvfrom, fd, buf, len, number(flags)) }
    }

    /// # Safety
    ///
    /// `buf` is valid for reads of `len` bytes.
    #[inline(always)]
    pub unsafe fn send(fd: c_int, buf: *const u8, len: usize, flags: c_int) -> isize {
        // SAFETY: sendto(2) without an address reads from these bytes only.
        unsafe { call(libc::SYS_sendto, fd, buf.cast_mut(), len, number(flags)) }
    }

    /// # Safety
    ///
    /// `room` is valid for writes of `len` events.
    #[cfg(not(wakewheel_libkqueue))]
    #[inline(always)]
    pub unsafe fn epoll_wait(epoll: c_int, room: *mut libc::epoll_event, len: usize, ms: c_int) -> isize {
        // SAFETY: epoll_wait(2) writes to this room only.
        unsafe { call(libc::SYS_epoll_wait, epoll, room.cast(), len, number(ms)) }
    }

    /// # Safety
    ///
    /// `event` is valid for reads, unless `op` needs none.
    #[cfg(not(wakewheel_libkqueue))]
    #[inline(always)]
    pub unsafe fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *const libc::epoll_event) -> isize {
        // SAFETY: epoll_ctl(2) reads the event, and writes nothing.
        unsafe { call(libc::SYS_epoll_ctl, epoll, number(op), fd as usize, event.cast_mut().cast()) }
    }

    /// An argument that is no pointer.
    #[inline(always)]
    fn number(n: c_int) -> *mut u8 {
        std::ptr::without_provenance_mut(n as usize)
    }

    /// A system call with these arguments, and zeros after them.
    ///
    /// # Safety
    ///
    /// That of the call.
    #[inline(always)]
    unsafe fn call(number: c_long, fd: c_int, second: *mut u8, third: usize, fourth: *mut u8) -> isize {
        let result;
        // SAFETY: the registers are those of syscall(2) for x86-64. The kernel changes rax, rcx and r11, and memory as the caller
        // allows; it keeps the flags, and uses none of our stack.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number as isize => result,
                in("rdi") fd as isize,
                in("rsi") second,
                in("rdx") third,
                in("r10") fourth,
                in("r8") 0usize,
                in("r9") 0usize,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack, preserves_flags),
            );
        }
        result
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
mod calls {
    use libc::c_int;
    use std::io;

    /// # Safety
    ///
    /// `buf` is valid for writes of `len` bytes.
    #[inline(always)]
    pub unsafe fn recv(fd: c_int, buf: *mut u8, len: usize, flags: c_int) -> isize {
        // SAFETY: as the caller promises.
        result(unsafe { libc::recv(fd, buf.cast(), len, flags) })
    }

    /// # Safety
    ///
    /// `buf` is valid for reads of `len` bytes.
    #[inline(always)]
    pub unsafe fn send(fd: c_int, buf: *const u8, len: usize, flags: c_int) -> isize {
        // SAFETY: as the caller promises.
        result(unsafe { libc::send(fd, buf.cast(), len, flags) })
    }

    /// # Safety
    ///
    /// `room` is valid for writes of `len` events.
    #[cfg(all(any(target_os = "linux", target_os = "android"), not(wakewheel_libkqueue)))]
    #[inline(always)]
    pub unsafe fn epoll_wait(epoll: c_int, room: *mut libc::epoll_event, len: usize, ms: c_int) -> isize {
        // SAFETY: as the caller promises.
        result(unsafe { libc::epoll_wait(epoll, room, len as c_int, ms) } as isize)
    }

    /// # Safety
    ///
    /// `event` is valid for reads, unless `op` needs none.
    #[cfg(all(any(target_os = "linux", target_os = "android"), not(wakewheel_libkqueue)))]
    #[inline(always)]
    pub unsafe fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *const libc::epoll_event) -> isize {
        // SAFETY: as the caller promises.
        result(unsafe { libc::epoll_ctl(epoll, op, fd, event.cast_mut()) } as isize)
    }

    #[inline(always)]
    fn result(of_libc: isize) -> isize {
        if of_libc < 0 { error() } else { of_libc }
    }

    #[cold]
    fn error() -> isize {
        -(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) as isize)
    }
}
