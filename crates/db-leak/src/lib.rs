//! Who holds which lease and why: call sites, suspects told apart by the server's view, reclaim past a hard limit.
