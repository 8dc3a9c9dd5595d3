// One launch, read from standard input and answered on standard output, as testkit's twin.rs writes and reads them.
//
// In: u32 grid[3], threads, shared bytes, seed, size of Params, buffers, pointers, blocks at once; Params, whose first fields,
// as many as there are pointers, hold 0 or the number of a buffer, from 1 on (of generation 2 the whole Launch, whose
// descriptors and turns hold such numbers, too); then each buffer as u64 size and bytes.
// Out: the buffers' bytes in order; u64 conflicts.
#pragma once

#ifdef HOPPER
typedef Launch Arguments;
static uint64_t *first_pointer(Arguments &launch) { return (uint64_t *)&launch.p; }
#else
typedef Params Arguments;
static uint64_t *first_pointer(Arguments &params) { return (uint64_t *)&params; }
#endif

static Arguments arguments;
static void launch_kernel() { ENTRY(arguments); }

// An address in place of the number of a buffer.
static void locate(uint64_t &pointer) {
    if (pointer) pointer = (uint64_t)twin::buffers[pointer - 1].bytes;
}

static void read_all(void *to, size_t size) {
    if (fread(to, 1, size, stdin) != size) twin::fail("the launch ends early");
}

int main() {
    u32 header[10];
    read_all(header, sizeof header);
    if (header[6] != sizeof arguments) twin::fail("Params has %u bytes there and %d here", header[6], (int)sizeof arguments);
    read_all(&arguments, sizeof arguments);
    twin::buffer_count = (int)header[7];
    if (twin::buffer_count > twin::MOST_BUFFERS) twin::fail("%d buffers", twin::buffer_count);
    for (int i = 0; i < twin::buffer_count; i++) {
        twin::Buffer &buffer = twin::buffers[i];
        read_all(&buffer.size, 8);
        unsigned char *whole = (unsigned char *)aligned_alloc(4096, (buffer.size + 2 * twin::GUARD + 4095) / 4096 * 4096);
        memset(whole, twin::GUARD_BYTE, buffer.size + 2 * twin::GUARD);
        buffer.bytes = whole + twin::GUARD;
        read_all(buffer.bytes, buffer.size);
    }
    for (u32 i = 0; i < header[8]; i++) locate(first_pointer(arguments)[i]);
#ifdef HOPPER
    TensorMap *maps = (TensorMap *)&arguments;
    for (u32 i = 0; i < (char *)&arguments.p - (char *)&arguments >> 7; i++) locate(maps[i].base);
    locate((uint64_t &)arguments.turns);
#endif
    for (int i = 0; i < 3; i++) twin::grid_size[i] = (int)header[i];
    twin::shared_size = header[4];
    twin::run_grid(launch_kernel, (int)header[3], header[5], header[9]);
    for (int i = 0; i < twin::buffer_count; i++) {
        const twin::Buffer &buffer = twin::buffers[i];
        for (int j = 0; j < twin::GUARD; j++)
            if (buffer.bytes[-1 - j] != twin::GUARD_BYTE || buffer.bytes[buffer.size + j] != twin::GUARD_BYTE)
                twin::fail("something was written beside buffer %d", i + 1);
        fwrite(buffer.bytes, 1, buffer.size, stdout);
    }
    fwrite(&twin::bank_conflicts, 8, 1, stdout);
    return 0;
}
