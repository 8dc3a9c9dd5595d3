//! The doors that tch leaves closed: libtorch's CUDA part opened at run time, and what was found.
