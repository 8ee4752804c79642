#include "convert/synth.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/pool.h"
#include "convert/config.h"
#include "convert/metadata.h"
#include "convert/vocabulary.h"
#include "gguf/gguf.h"

/* ---- tokenizer ---- */

/* Words that the chat layout needs as one token each, at the ids that config.json gives them, by merges letter by letter. */
typedef struct word {
    const char *text;
    uint32_t id;
} word;

static gguf_str keep(char **at, const char *text) {
    size_t n = strlen(text);
    memcpy(*at, text, n + 1);
    gguf_str s = {*at, n};
    *at += n + 1;
    return s;
}

static void put_token(vocabulary *v, char **at, uint32_t id, int32_t type, const char *text) {
    if (id < v->count && !v->tokens[id].data) {
        v->tokens[id] = keep(at, text);
        v->types[id] = type;
    }
}

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 on. */
static void byte_token(int byte, int *others, char out[4]) {
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    int code = printable ? byte : 256 + (*others)++;
    int n = 0;
    if (code < 0x80) {
        out[n++] = (char)code;
    } else {
        out[n++] = (char)(0xC0 | code >> 6);
        out[n++] = (char)(0x80 | (code & 0x3F));
    }
    out[n] = '\0';
}

static void put_word(vocabulary *v, char **at, const word *w, uint32_t *next_id) {
    size_t n = strlen(w->text);
    for (size_t i = 1; i < n; i++) {
        char left[16], joined[16], merge[32];
        snprintf(left, sizeof left, "%.*s", (int)i, w->text);
        snprintf(joined, sizeof joined, "%.*s", (int)i + 1, w->text);
        snprintf(merge, sizeof merge, "%s %c", left, w->text[i]);
        put_token(v, at, i + 1 == n ? w->id : (*next_id)++, TOKEN_NORMAL, joined);
        v->merges[v->n_merges++] = keep(at, merge);
    }
}

static omni_status make_vocabulary(const model_config *c, vocabulary *v, omni_error *err) {
    enum { ROW_NAME = 16, MERGES = 64, FIXED = 8192 };
    *v = (vocabulary){.count = c->thinker.vocab_size, .padding_id = UINT32_MAX};
    v->tokens = calloc(v->count, sizeof *v->tokens);
    v->types = calloc(v->count, sizeof *v->types);
    v->merges = calloc(MERGES, sizeof *v->merges);
    v->memory[0] = malloc(v->count * ROW_NAME + FIXED);
    if (!v->tokens || !v->types || !v->merges || !v->memory[0]) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a vocabulary of %zu tokens", v->count);
    }
    char *at = v->memory[0], name[32];
    const token_ids *t = &c->ids;
    const struct {
        uint32_t id;
        const char *text;
    } markup[] = {
        {t->im_start, "<|im_start|>"}, {t->im_end, "<|im_end|>"},   {t->vision_start, "<|vision_start|>"}, {t->vision_end, "<|vision_end|>"},
        {t->image, "<|image_pad|>"},   {t->video, "<|video_pad|>"}, {t->audio_start, "<|audio_start|>"},   {t->audio_end, "<|audio_end|>"},
        {t->audio, "<|audio_pad|>"},   {t->tts_pad, "<tts_pad>"},   {t->tts_bos, "<tts_text_bos>"},        {t->tts_eos, "<tts_text_eod>"},
    };
    for (size_t i = 0; i < sizeof markup / sizeof *markup; i++) {
        put_token(v, &at, markup[i].id, TOKEN_CONTROL, markup[i].text);
    }
    int others = 0;
    uint32_t next_id = 0;
    for (int byte = 0; byte < 256; byte++) {
        byte_token(byte, &others, name);
        put_token(v, &at, next_id++, TOKEN_NORMAL, name);
    }
    const word words[] = {{"system", t->system}, {"user", t->user}, {"assistant", t->assistant}};
    for (size_t i = 0; i < 3; i++) {
        put_word(v, &at, &words[i], &next_id);
    }
    for (size_t i = 0; i < v->count; i++) {
        if (!v->tokens[i].data) {
            snprintf(name, sizeof name, "[PAD%zu]", i);
            put_token(v, &at, (uint32_t)i, TOKEN_UNUSED, name);
        }
    }
    return OMNI_OK;
}

/* ---- sizes and types ---- */

static omni_status make_config(const synth_options *o, model_config *c, omni_error *err) {
    TRY(config_parse(synth_released_config, strlen(synth_released_config), "the released sizes", true, c, err));
    if (o->layers > 0) {
        c->thinker.layers = (uint32_t)o->layers;
        c->accept_hidden_layer = c->accept_hidden_layer < c->thinker.layers ? c->accept_hidden_layer : c->thinker.layers;
    }
    c->input = (preprocessing){
        .image_mean = {0.5F, 0.5F, 0.5F},
        .image_std = {0.5F, 0.5F, 0.5F},
        .video_mean = {0.5F, 0.5F, 0.5F},
        .video_std = {0.5F, 0.5F, 0.5F},
        .image_min_pixels = 3136,
        .image_max_pixels = 12845056,
        .video_min_pixels = 131072,
        .video_max_pixels = 786432,
        .sampling_rate = 16000,
        .n_fft = 400,
        .hop_length = 160,
    };
    return OMNI_OK;
}

/* ---- values ---- */

static bool ends_with(const char *s, const char *suffix) {
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

typedef struct spread {
    float mean, deviation;
} spread;

/* Values that keep activations of every part in a sane range: matrices preserve variance, norms are about 1, residual branches
 * that the model scales down stay small. */
static spread spread_of(const mapped_tensor *t) {
    const char *n = t->name;
    if (ends_with(n, ".bias")) {
        return (spread){0, 0.02F};
    }
    if (ends_with(n, "attn_scale.weight") || ends_with(n, "ffn_scale.weight") || ends_with(n, "gamma.weight")) {
        return (spread){0.05F, 0.01F};
    }
    if (ends_with(n, ".alpha") || ends_with(n, ".beta")) {
        return (spread){0, 0.2F};
    }
    if (strstr(n, "position_embd")) {
        return (spread){0, 0.02F};
    }
    if (t->n_dims == 1) {
        return (spread){1, 0.1F}; /* norms: what else has one dimension was named above */
    }
    int64_t fan_in = t->ne[0];
    if (ends_with(n, "dwconv.weight")) {
        fan_in = t->ne[1];
    } else if (t->n_dims == 4) {
        fan_in = t->ne[0] * t->ne[1] * t->ne[2];
    } else if (t->n_dims == 3 && (strstr(n, "conv1.") || strstr(n, "conv2.") || strstr(n, "conv_in") || strstr(n, "conv_out"))) {
        fan_in = t->ne[0] * t->ne[1];
    }
    return (spread){0, 1.0F / sqrtf((float)fan_in)};
}

static int64_t prime_up_to(int64_t n) {
    for (; n > 3; n--) {
        bool prime = true;
        for (int64_t d = 2; prime && d * d <= n; d++) {
            prime = n % d != 0;
        }
        if (prime) {
            break;
        }
    }
    return n;
}

enum { TILE_BYTES = 4 << 20 };

typedef struct writing {
    const synth_options *options;
    const mapping *m;
    gguf_writer *writer;
    uint8_t *tiles; /* [threads][TILE_BYTES] */
    uint64_t total;
    _Atomic uint64_t done;
    _Atomic bool stop;
    pthread_mutex_t mutex;
    omni_status status;
    omni_error *err;
} writing;

static void keep_error(writing *w, omni_status status, const omni_error *why) {
    pthread_mutex_lock(&w->mutex);
    if (w->status == OMNI_OK) {
        w->status = fail(w->err, status, "%s", why->text);
    }
    pthread_mutex_unlock(&w->mutex);
    atomic_store(&w->stop, true);
}

/* One tensor: a tile of random blocks, written over and over. A tile holds a prime number of blocks, so that no two rows are equal. */
static void write_tensor(writing *w, size_t i, int thread) {
    const mapped_tensor *t = &w->m->tensors[i];
    const dtype_info *info = dtype_find(t->type);
    uint8_t *tile = w->tiles + (size_t)thread * TILE_BYTES;
    size_t size = gguf_writer_tensor_bytes(w->writer, i);
    int64_t blocks = (int64_t)(size / info->bytes), most = TILE_BYTES / (int64_t)info->bytes;
    blocks = blocks < most ? blocks : prime_up_to(most);
    spread s = spread_of(t);
    synth_fill(t->type, s.mean, s.deviation, w->options->seed * 1000003 + i, blocks, tile);
    const size_t tile_bytes = (size_t)blocks * info->bytes;
    for (size_t at = 0; at < size && !atomic_load(&w->stop); at += tile_bytes) {
        size_t n = size - at < tile_bytes ? size - at : tile_bytes;
        omni_error why = {0};
        omni_status status = gguf_writer_data(w->writer, i, at, tile, n, &why);
        if (status != OMNI_OK) {
            keep_error(w, status, &why);
            return;
        }
        uint64_t done = atomic_fetch_add(&w->done, n) + n;
        const synth_options *o = w->options;
        if (thread == 0 && o->progress && !o->progress(o->arg, done, w->total)) {
            keep_error(w, OMNI_CANCELLED, &(omni_error){.text = "cancelled"});
        }
    }
}

static void write_tensors(void *arg, int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; i++) {
        write_tensor(arg, (size_t)i, thread);
    }
}

static omni_status write_values(const synth_options *o, const mapping *m, gguf_writer *writer, omni_error *err) {
    pool *p;
    TRY(pool_create(o->threads, &p, err));
    writing w = {.options = o, .m = m, .writer = writer, .err = err};
    pthread_mutex_init(&w.mutex, NULL);
    w.tiles = malloc((size_t)pool_threads(p) * TILE_BYTES);
    for (size_t i = 0; i < m->count; i++) {
        w.total += gguf_writer_tensor_bytes(writer, i);
    }
    if (w.tiles) {
        pool_for(p, (int64_t)m->count, 1, write_tensors, &w);
        if (w.status == OMNI_OK && o->progress && !o->progress(o->arg, w.total, w.total)) { /* of the end, one thread alone may not know */
            w.status = fail(err, OMNI_CANCELLED, "cancelled");
        }
    } else {
        w.status = fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    pthread_mutex_destroy(&w.mutex);
    free(w.tiles);
    pool_destroy(p);
    return w.status;
}

/* ---- the file ---- */

static omni_status write_file(const synth_options *o, const model_config *c, const mapping *m, const recipe *mix, omni_error *err) {
    gguf_writer *w;
    TRY(gguf_writer_create(o->path, &w, err));
    vocabulary v = {0};
    omni_status status = OMNI_OK;
    if (o->part == MAPPING_THINKER) {
        status = make_vocabulary(c, &v, err);
        if (status == OMNI_OK) {
            metadata_put_thinker(w, c, &v, "random", mix->file_type);
        }
    } else if (o->part == MAPPING_MMPROJ) {
        metadata_put_mmproj(w, c, "random", mix->file_type);
    } else {
        metadata_put_talker(w, c, "random", mix->file_type);
    }
    for (size_t i = 0; i < m->count; i++) {
        gguf_put_tensor(w, m->tensors[i].name, m->tensors[i].type, m->tensors[i].n_dims, m->tensors[i].ne);
    }
    status = status == OMNI_OK ? gguf_writer_begin(w, err) : status;
    vocabulary_free(&v);
    status = status == OMNI_OK ? write_values(o, m, w, err) : status;
    if (status != OMNI_OK) {
        gguf_writer_abandon(w);
        return status;
    }
    return gguf_writer_finish(w, err);
}

omni_status synth_file(const synth_options *o, uint64_t *bytes, omni_error *err) {
    const recipe *mix;
    TRY(recipe_find(o->type ? o->type : "q8_0", &mix, err));
    if (o->layers < 0 || o->layers > CONFIG_MAX_LAYERS) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d layers asked for; 1 to %d are possible", o->layers, CONFIG_MAX_LAYERS);
    }
    if (o->part != MAPPING_THINKER && o->part != MAPPING_MMPROJ && o->part != MAPPING_TALKER) {
        return fail(err, OMNI_ERR_ARGUMENT, "a file holds one part: the thinker, the encoders or the talker");
    }
    model_config *c = malloc(sizeof *c);
    if (!c) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    mapping m = {0};
    omni_status status = make_config(o, c, err);
    status = status == OMNI_OK ? mapping_shapes(c, o->part, mix, &m, err) : status;
    if (status == OMNI_OK) {
        status = write_file(o, c, &m, mix, err);
    }
    struct stat st;
    if (status == OMNI_OK && bytes) {
        *bytes = stat(o->path, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    mapping_free(&m);
    free(c);
    return status;
}
