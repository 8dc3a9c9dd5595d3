// Rows shared out among groups of GROUP warps: a warp each where rows are short, a block each where they are long.

#define THREADS (32 * WARPS)
#define ROW_THREADS (32 * GROUP)
// Rows of a block.
#define ROWS (WARPS / GROUP)

DEVICE int row_thread() { return thread_index() % ROW_THREADS; }
DEVICE long long first_row() { return (long long)block_x() * ROWS + thread_index() / ROW_THREADS; }

// The sum over the threads of a row, the same in each. `turn` counts the sums of a block, which take two places in shared
// memory in turns: a warp comes back to a place only after a barrier that all others reach when they have read it.
DEVICE float row_sum(float value, int &turn) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
#if GROUP > 1
    u32 place = shared_address(4 * GROUP * (turn++ & 1));
    if (thread_index() % 32 == 0) store_shared_float(place + 4 * (thread_index() / 32), value);
    barrier();
    value = 0.0f;
    UNROLL for (int warp = 0; warp < GROUP; warp++) value += load_shared_float(place + 4 * warp);
#endif
    return value;
}
