pub use wakewheel::*;
