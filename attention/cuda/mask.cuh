// Which query sees which key: from `first_key(query)` to before `last_key(query)`, and the sinks before `last_key(query)`.
// The definition is RowMask::visible in src/mask/row.rs.

struct Mask {
    int ordered, offset, window, sinks, key_len, query_len;
    // Starts of this sequence's documents; none if there are no documents.
    const int *starts;
    int documents;

    DEVICE Mask of(const Params &p, int batch) {
        Mask mask = {p.ordered, p.offset, p.window, p.sinks, p.key_len, p.query_len, p.starts, 0};
        if (p.starts) {
            int from = load_int(p.start_offsets + batch);
            mask.starts = p.starts + from;
            mask.documents = load_int(p.start_offsets + batch + 1) - from;
        }
        return mask;
    }

    // Documents that start at or before a position.
    MEMBER int documents_until(int position) const {
        int low = 0, high = documents;
        while (low < high) {
            int middle = (low + high) >> 1;
            if (load_int(starts + middle) <= position) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    // One past the last key that a query sees; zero or less if it sees none.
    MEMBER int last_key(int query) const { return ordered ? min_(key_len, query + offset + 1) : key_len; }

    // The first key that a query sees, sinks apart.
    MEMBER int first_key(int query) const {
        if (!ordered) return 0;
        int position = query + offset;
        if (starts) {
            int document = documents_until(position);
            return document ? load_int(starts + document - 1) : 0;
        }
        return max_(0, position - window + 1);
    }

    // Whether all queries from one whose last key is before `last` to one whose first key is `first` see all keys in
    // [key, key_end): first and last keys never fall from one query to the next.
    MEMBER bool all_visible(int first, int last, int key, int key_end) const {
        return key_end <= last && (key_end <= sinks || key >= first);
    }

    // Whether a query with these first and last keys sees a key; without a branch, since it is asked for every pair.
    MEMBER bool sees(int first, int last, int key) const { return (key < last) & ((key >= first) | (key < sinks)); }

    // Puts the first keys of ROWS queries into shared memory; searching for a document there and then is once for all tiles.
    template <int ROWS, int THREADS_> MEMBER void store_first_keys(u32 to, int query) const {
        for (int row = thread_index(); row < ROWS; row += THREADS_)
            store_shared_word(to + 4 * row, (u32)first_key(query + row));
    }

    // Whether a query comes before a key that it therefore does not see.
    MEMBER bool before(int query, int key) const { return ordered & (query + offset < key); }

    // The first query that sees a key in [key, ..).
    MEMBER int first_query(int key) const { return ordered ? max_(0, key - offset) : 0; }

    // One past the last query that sees a key in [key, key_end).
    MEMBER int last_query(int key, int key_end) const {
        if (!ordered || key < sinks) return query_len;
        if (starts) {
            int next = documents_until(key_end - 1);
            return next == documents ? query_len : min_(query_len, load_int(starts + next) - offset);
        }
        return min_(query_len, key_end - 1 + window - offset);
    }
};

// Numbers of tiles of keys that some queries see all of: before `sinks_end`, and from `first` to before `end`.
struct VisibleTiles {
    int sinks_end, first, end;
};

// The tiles of `SIZE` keys that queries in [query, query_end) see: those with sinks, then those from the first key on.
template <int SIZE> struct KeyTiles {
    int sink_tiles, first, count;

    DEVICE KeyTiles of(const Mask &mask, int query, int query_end) {
        int last = mask.last_key(query_end - 1);
        int end = last > 0 ? (last + SIZE - 1) / SIZE : 0;
        KeyTiles tiles;
        tiles.first = mask.first_key(query) / SIZE;
        tiles.sink_tiles = last > 0 ? min_((min_(mask.sinks, last) + SIZE - 1) / SIZE, tiles.first) : 0;
        tiles.count = tiles.sink_tiles + max_(0, end - tiles.first);
        return tiles;
    }
    // The first key of the n-th of them.
    MEMBER int key(int n) const { return (n < sink_tiles ? n : first + n - sink_tiles) * SIZE; }

    // How many of them begin before a multiple of SIZE.
    MEMBER int before(int tile) const {
        return min_(count, tile < first ? min_(tile, sink_tiles) : tile - first + sink_tiles);
    }
    // Those that all queries from one whose last key is before `last_key` to one whose first key is `first_key` see all keys of.
    MEMBER VisibleTiles all_visible(const Mask &mask, int first_key, int last_key) const {
        int end = max_(0, last_key) / SIZE;
        return {before(min_(mask.sinks / SIZE, end)), before((first_key + SIZE - 1) / SIZE), before(end)};
    }
};
