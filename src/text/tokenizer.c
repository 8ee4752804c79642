#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/unicode_class.h"

struct tokenizer {
    bpe bpe;
    uint8_t *classes;
    size_t size; /* ids */
    uint8_t *kind;
    char *bytes; /* of all pieces; piece id is bytes[offset[id] .. offset[id + 1]) */
    uint32_t *offset;
    int32_t *added; /* ids of the added tokens, the longest text first; ends with -1 */
    size_t added_count;
    bool starts_added[256]; /* whether an added token begins with this byte */
    size_t longest;
    int32_t eos;
    int32_t ends[8];
    size_t end_count;
};

enum { MAX_VOCABULARY = 1 << 24, MAX_MERGES = 1 << 24 };

omni_status token_list_push(token_list *l, int32_t id, omni_error *err) {
    if (l->count == l->capacity) {
        size_t capacity = l->capacity < 64 ? 64 : l->capacity * 2;
        int32_t *ids = capacity > SIZE_MAX / sizeof *ids / 2 ? NULL : realloc(l->ids, capacity * sizeof *ids);
        if (!ids) {
            return fail(err, OMNI_ERR_MEMORY, "no memory for %zu tokens", capacity);
        }
        l->ids = ids;
        l->capacity = capacity;
    }
    l->ids[l->count++] = id;
    return OMNI_OK;
}

void token_list_free(token_list *l) {
    free(l->ids);
    *l = (token_list){0};
}

/* ---- opening ---- */

/* GPT-2's table of printable stand-ins: bytes that are printable Latin-1 stand for themselves, the others follow from U+0100 on. */
static void byte_alphabet(int16_t byte_of[512]) {
    for (int i = 0; i < 512; i++) {
        byte_of[i] = -1;
    }
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        byte_of[printable ? b : next++] = (int16_t)b;
    }
}

/* Turns stand-ins back into bytes; out needs text.size bytes. False when a character is not in the table. */
static bool bytes_of(const int16_t byte_of[512], gguf_str text, char *out, size_t *n) {
    *n = 0;
    for (size_t i = 0; i < text.size;) {
        uint32_t code;
        i += utf8_decode(text.data + i, text.size - i, &code);
        if (code >= 512 || byte_of[code] < 0) {
            return false;
        }
        out[(*n)++] = (char)byte_of[code];
    }
    return true;
}

static omni_status need_value(gguf *g, const char *key, const char *value, omni_error *err) {
    const char *found;
    TRY(gguf_need_str(g, key, &found, err));
    if (strcmp(found, value) != 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: %s is \"%.40s\"; this program knows only \"%s\", the tokenizer of Qwen3", gguf_path(g), key,
                    found, value);
    }
    return OMNI_OK;
}

static token_kind kind_of(int32_t type) {
    enum { GGUF_NORMAL = 1, GGUF_CONTROL = 3, GGUF_USER_DEFINED = 4 };
    return type == GGUF_NORMAL ? TOKEN_NORMAL : type == GGUF_CONTROL ? TOKEN_CONTROL : type == GGUF_USER_DEFINED ? TOKEN_ADDED : TOKEN_UNUSED;
}

static omni_status fill_pieces(tokenizer *t, const gguf *g, const gguf_str *tokens, const int32_t *types, const int16_t byte_of[512],
                               omni_error *err) {
    size_t total = 0;
    for (size_t i = 0; i < t->size; i++) {
        if (tokens[i].size > UINT32_MAX - total) {
            return fail(err, OMNI_ERR_LIMIT, "%s: the texts of tokenizer.ggml.tokens are over 4 GiB", gguf_path(g));
        }
        total += tokens[i].size;
    }
    t->bytes = malloc(total + 1);
    t->offset = calloc(t->size + 1, sizeof *t->offset);
    t->kind = calloc(t->size, 1);
    if (!t->bytes || !t->offset || !t->kind) {
        return fail(err, OMNI_ERR_MEMORY, "%s: no memory for %zu tokens", gguf_path(g), t->size);
    }
    size_t used = 0;
    for (size_t i = 0; i < t->size; i++) {
        size_t n = 0;
        t->kind[i] = (uint8_t)kind_of(types[i]);
        if (t->kind[i] == TOKEN_NORMAL) {
            if (!bytes_of(byte_of, tokens[i], t->bytes + used, &n)) {
                return fail(err, OMNI_ERR_FORMAT, "%s: tokenizer.ggml.tokens[%zu] \"%.*s\" has a character that stands for no byte", gguf_path(g), i,
                            (int)(tokens[i].size < 40 ? tokens[i].size : 40), tokens[i].data);
            }
        } else if (t->kind[i] != TOKEN_UNUSED) {
            n = tokens[i].size;
            memcpy(t->bytes + used, tokens[i].data, n);
            t->added_count += n > 0;
        }
        t->longest = n > t->longest ? n : t->longest;
        used += n;
        t->offset[i + 1] = (uint32_t)used;
    }
    return OMNI_OK;
}

static size_t piece_size(const tokenizer *t, int32_t id) {
    return t->offset[id + 1] - t->offset[id];
}

/* (length, id) packed so that sorting numbers puts the longest first and the lowest id first among equals. */
static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static omni_status collect_added(tokenizer *t, omni_error *err) {
    uint64_t *keys = calloc(t->added_count + 1, sizeof *keys);
    t->added = calloc(t->added_count + 1, sizeof *t->added);
    if (!keys || !t->added) {
        free(keys);
        return fail(err, OMNI_ERR_MEMORY, "no memory for %zu added tokens", t->added_count);
    }
    size_t n = 0;
    for (size_t i = 0; i < t->size; i++) {
        size_t size = piece_size(t, (int32_t)i);
        if (size > 0 && (t->kind[i] == TOKEN_CONTROL || t->kind[i] == TOKEN_ADDED)) {
            keys[n++] = (uint64_t)(UINT32_MAX - size) << 32 | i;
            t->starts_added[(uint8_t)t->bytes[t->offset[i]]] = true;
        }
    }
    qsort(keys, n, sizeof *keys, by_key);
    for (size_t i = 0; i < n; i++) {
        t->added[i] = (int32_t)(uint32_t)keys[i];
    }
    free(keys);
    return OMNI_OK;
}

static omni_status add_merges(tokenizer *t, const gguf *g, const gguf_str *merges, size_t count, const int16_t byte_of[512], omni_error *err) {
    char *buffer = NULL;
    size_t room = 0;
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < count && status == OMNI_OK; i++) {
        gguf_str m = merges[i];
        const char *space = m.size > 2 ? memchr(m.data + 1, ' ', m.size - 2) : NULL;
        size_t left_size = space ? (size_t)(space - m.data) : 0, left_bytes, right_bytes;
        if (m.size > room) {
            free(buffer);
            room = m.size * 2;
            buffer = malloc(room);
            if (!buffer) {
                return fail(err, OMNI_ERR_MEMORY, "%s: no memory to read tokenizer.ggml.merges", gguf_path(g));
            }
        }
        int32_t left = -1, right = -1, both = -1;
        if (space && bytes_of(byte_of, (gguf_str){m.data, left_size}, buffer, &left_bytes) &&
            bytes_of(byte_of, (gguf_str){space + 1, m.size - left_size - 1}, buffer + left_bytes, &right_bytes)) {
            left = bpe_find(&t->bpe, buffer, left_bytes);
            right = bpe_find(&t->bpe, buffer + left_bytes, right_bytes);
            both = bpe_find(&t->bpe, buffer, left_bytes + right_bytes);
        }
        if (left < 0 || right < 0 || both < 0) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: tokenizer.ggml.merges[%zu] \"%.*s\" is not two tokens that join to a third", gguf_path(g), i,
                          (int)(m.size < 80 ? m.size : 80), m.data);
        } else {
            bpe_add_merge(&t->bpe, (uint32_t)left, (uint32_t)right, (uint32_t)i, (uint32_t)both);
        }
    }
    free(buffer);
    return status;
}

static omni_status build_bpe(tokenizer *t, const gguf *g, const gguf_str *merges, size_t merge_count, const int16_t byte_of[512], omni_error *err) {
    TRY(bpe_init(&t->bpe, t->bytes, t->offset, t->size, merge_count, err));
    for (size_t i = 0; i < t->size; i++) {
        if (t->kind[i] == TOKEN_NORMAL) {
            bpe_add_piece(&t->bpe, (uint32_t)i);
        }
    }
    for (int b = 0; b < 256; b++) {
        if (t->bpe.byte_id[b] < 0) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tokenizer.ggml.tokens has no token for the single byte 0x%02X", gguf_path(g), (unsigned)b);
        }
    }
    return add_merges(t, g, merges, merge_count, byte_of, err);
}

static void add_end(tokenizer *t, int32_t id) {
    if (id >= 0 && !tokenizer_is_end(t, id) && t->end_count < sizeof t->ends / sizeof *t->ends) {
        t->ends[t->end_count++] = id;
    }
}

static omni_status read_ends(tokenizer *t, const gguf *g, omni_error *err) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    t->eos = -1;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t id;
        if (gguf_find(g, keys[i]) < 0) {
            continue;
        }
        TRY(gguf_maybe_u32(g, keys[i], 0, &id, err));
        if (id >= t->size) {
            return fail(err, OMNI_ERR_FORMAT, "%s: %s is %u, but the vocabulary has %zu tokens", gguf_path(g), keys[i], id, t->size);
        }
        t->eos = i == 0 ? (int32_t)id : t->eos;
        add_end(t, (int32_t)id);
    }
    static const char *const names[] = {"<|im_end|>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = tokenizer_find(t, names[i]);
        if (tokenizer_kind(t, id) == TOKEN_CONTROL) {
            add_end(t, id);
        }
    }
    return OMNI_OK;
}

static omni_status build(tokenizer *t, gguf *g, const gguf_str *tokens, const gguf_str *merges, size_t merge_count, omni_error *err) {
    if (t->size == 0 || t->size > MAX_VOCABULARY || merge_count > MAX_MERGES) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %zu tokens and %zu merges; 1 to %d tokens and up to %d merges can be used", gguf_path(g), t->size,
                    merge_count, MAX_VOCABULARY, MAX_MERGES);
    }
    int32_t *types = calloc(t->size, sizeof *types);
    t->classes = unicode_classes();
    if (!types || !t->classes) {
        free(types);
        return fail(err, OMNI_ERR_MEMORY, "%s: no memory for %zu tokens", gguf_path(g), t->size);
    }
    int16_t byte_of[512];
    byte_alphabet(byte_of);
    omni_status status = gguf_need_i32s(g, "tokenizer.ggml.token_type", t->size, types, err);
    if (status == OMNI_OK) {
        status = fill_pieces(t, g, tokens, types, byte_of, err);
    }
    free(types);
    TRY(status);
    TRY(collect_added(t, err));
    TRY(build_bpe(t, g, merges, merge_count, byte_of, err));
    return read_ends(t, g, err);
}

omni_status tokenizer_open(gguf *g, tokenizer **out, omni_error *err) {
    *out = NULL;
    TRY(need_value(g, "tokenizer.ggml.model", "gpt2", err));
    TRY(need_value(g, "tokenizer.ggml.pre", "qwen2", err));
    gguf_str *tokens = NULL, *merges = NULL;
    size_t token_count, merge_count;
    TRY(gguf_need_strs(g, "tokenizer.ggml.tokens", &tokens, &token_count, err));
    omni_status status = gguf_need_strs(g, "tokenizer.ggml.merges", &merges, &merge_count, err);
    tokenizer *t = NULL;
    if (status == OMNI_OK) {
        t = calloc(1, sizeof *t);
        if (t) {
            t->size = token_count;
            status = build(t, g, tokens, merges, merge_count, err);
        } else {
            status = fail(err, OMNI_ERR_MEMORY, "%s: no memory for the tokenizer", gguf_path(g));
        }
    }
    free(tokens);
    free(merges);
    if (status != OMNI_OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return OMNI_OK;
}

void tokenizer_close(tokenizer *t) {
    if (t) {
        bpe_free(&t->bpe);
        free(t->classes);
        free(t->kind);
        free(t->bytes);
        free(t->offset);
        free(t->added);
        free(t);
    }
}

/* ---- the vocabulary ---- */

size_t tokenizer_size(const tokenizer *t) {
    return t->size;
}

size_t tokenizer_least(const tokenizer *t, size_t n) {
    enum { MOST_COMPOSED = 4 }; /* NFC makes no more bytes one: 7 become 2 in U+1FBE U+0344, 9 become 3 in Hangul */
    const size_t most = MOST_COMPOSED * t->longest;
    return n / most + (n % most != 0);
}

int32_t tokenizer_eos(const tokenizer *t) {
    return t->eos;
}

bool tokenizer_is_end(const tokenizer *t, int32_t id) {
    for (size_t i = 0; i < t->end_count; i++) {
        if (t->ends[i] == id) {
            return true;
        }
    }
    return false;
}

token_kind tokenizer_kind(const tokenizer *t, int32_t id) {
    return id < 0 || (size_t)id >= t->size ? TOKEN_UNUSED : (token_kind)t->kind[id];
}

const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *size) {
    if (id < 0 || (size_t)id >= t->size) {
        *size = 0;
        return "";
    }
    *size = piece_size(t, id);
    return t->bytes + t->offset[id];
}

int32_t tokenizer_find(const tokenizer *t, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < t->added_count; i++) {
        if (piece_size(t, t->added[i]) == n && memcmp(t->bytes + t->offset[t->added[i]], text, n) == 0) {
            return t->added[i];
        }
    }
    return n > 0 ? bpe_find(&t->bpe, text, n) : -1;
}

/* ---- encoding ---- */

/* One stretch of text between added tokens: NFC, pieces, merges. */
static omni_status encode_stretch(const tokenizer *t, bpe_scratch *scratch, const char *text, size_t n, token_list *out, omni_error *err) {
    char *s;
    size_t size;
    TRY(unicode_nfc(t->classes, text, n, &s, &size, err));
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < size && status == OMNI_OK;) {
        size_t piece = pretoken_length(t->classes, s + i, size - i), count = 0;
        const int32_t *ids;
        status = bpe_encode(&t->bpe, scratch, s + i, piece, &ids, &count, err);
        for (size_t k = 0; k < count && status == OMNI_OK; k++) {
            status = token_list_push(out, ids[k], err);
        }
        i += piece;
    }
    if (s != text) {
        free(s);
    }
    return status;
}

int32_t tokenizer_added_at(const tokenizer *t, const char *s, size_t n) {
    if (n == 0 || !t->starts_added[(uint8_t)*s]) {
        return -1;
    }
    for (size_t i = 0; i < t->added_count; i++) {
        size_t size = piece_size(t, t->added[i]);
        if (size <= n && memcmp(t->bytes + t->offset[t->added[i]], s, size) == 0) {
            return t->added[i];
        }
    }
    return -1;
}

static omni_status encode_markup(const tokenizer *t, bpe_scratch *scratch, const char *text, size_t n, token_list *out, omni_error *err) {
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        int32_t id = tokenizer_added_at(t, text + i, n - i);
        if (id < 0) {
            i++;
            continue;
        }
        TRY(encode_stretch(t, scratch, text + done, i - done, out, err));
        TRY(token_list_push(out, id, err));
        i += piece_size(t, id);
        done = i;
    }
    return encode_stretch(t, scratch, text + done, n - done, out, err);
}

omni_status tokenizer_encode(const tokenizer *t, tokenize_mode mode, const char *text, size_t n, token_list *out, omni_error *err) {
    bpe_scratch scratch = {0};
    size_t before = out->count;
    omni_status status = mode == TOKENIZE_MARKUP ? encode_markup(t, &scratch, text, n, out, err) : encode_stretch(t, &scratch, text, n, out, err);
    bpe_scratch_free(&scratch);
    if (status != OMNI_OK) {
        out->count = before;
    }
    return status;
}

/* ---- decoding ---- */

omni_status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t count, bool with_control, char **out, size_t *out_size, omni_error *err) {
    size_t total = 0, size;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) {
            *out = malloc(total + 1);
            if (!*out) {
                return fail(err, OMNI_ERR_MEMORY, "no memory for the text of %zu tokens", count);
            }
            total = 0;
        }
        for (size_t i = 0; i < count; i++) {
            const char *piece = tokenizer_piece(t, ids[i], &size);
            if (tokenizer_kind(t, ids[i]) == TOKEN_CONTROL && !with_control) {
                continue;
            }
            if (size > SIZE_MAX - 1 - total) {
                return fail(err, OMNI_ERR_LIMIT, "the text of %zu tokens is too long", count);
            }
            if (pass == 1) {
                memcpy(*out + total, piece, size);
            }
            total += size;
        }
    }
    (*out)[total] = 0;
    *out_size = total;
    return OMNI_OK;
}

size_t token_stream_room(const tokenizer *t) {
    return 3 * (t->longest + sizeof((token_stream *)0)->pending);
}

size_t token_stream_push(token_stream *s, const tokenizer *t, int32_t id, char *out) {
    size_t size, used = 0;
    const char *piece = tokenizer_piece(t, id, &size);
    if (tokenizer_kind(t, id) == TOKEN_CONTROL) {
        return 0;
    }
    for (size_t i = 0; i < size; i++) {
        s->pending[s->pending_size++] = piece[i];
        /* What stood there before was an unfinished character, so this byte finishes it, goes on with it, or shows it to be malformed. */
        while (s->pending_size > 0 && utf8_complete(s->pending, s->pending_size) > 0) {
            uint32_t code;
            size_t k = utf8_decode(s->pending, s->pending_size, &code);
            used += utf8_encode(code, out + used);
            s->pending_size -= k;
            memmove(s->pending, s->pending + k, s->pending_size);
        }
    }
    return used;
}

size_t token_stream_flush(token_stream *s, char *out) {
    size_t used = s->pending_size > 0 ? utf8_encode(0xFFFD, out) : 0;
    s->pending_size = 0;
    return used;
}
