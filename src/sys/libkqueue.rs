//! The C interface of libkqueue 2, a kqueue in user space, for tests of the kqueue backend on Linux: what the libc
//! crate has for the BSDs, under the same names. See `build.rs`.

#![allow(non_camel_case_types)]

use libc::{c_int, c_short, c_uint, c_ushort, c_void, intptr_t, timespec, uintptr_t};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct kevent {
    pub ident: uintptr_t,
    pub filter: c_short,
    pub flags: c_ushort,
    pub fflags: c_uint,
    pub data: intptr_t,
    pub udata: *mut c_void,
}

pub const EVFILT_READ: c_short = -1;
pub const EVFILT_WRITE: c_short = -2;
pub const EVFILT_USER: c_short = -11;

pub const EV_ADD: c_ushort = 0x0001;
pub const EV_DELETE: c_ushort = 0x0002;
pub const EV_CLEAR: c_ushort = 0x0020;
pub const EV_RECEIPT: c_ushort = 0x0040;
pub const EV_ERROR: c_ushort = 0x4000;
pub const EV_EOF: c_ushort = 0x8000;

pub const NOTE_TRIGGER: c_uint = 0x0100_0000;

unsafe extern "C" {
    pub fn kqueue() -> c_int;
    pub fn kevent(
        kq: c_int,
        changelist: *const kevent,
        nchanges: c_int,
        eventlist: *mut kevent,
        nevents: c_int,
        timeout: *const timespec,
    ) -> c_int;
}
