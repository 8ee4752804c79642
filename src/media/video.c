#include "media/video.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "media/media_file.h"
#include "media/video_source.h"

enum { FRAME_FACTOR = 2 };

static video_options resolve(const video_options *given) {
    video_options o = given ? *given : (video_options){0};
    o.fps = o.fps > 0 ? o.fps : 2;
    o.min_frames = o.min_frames > 0 ? o.min_frames : 4;
    o.max_frames = o.max_frames > 0 ? o.max_frames : 768;
    o.max_frames = o.frames > 0 ? o.frames + FRAME_FACTOR : o.max_frames; /* room for it */
    o.total_tokens = o.total_tokens > 0 ? o.total_tokens : 115200;
    o.file_frames = o.file_frames > 0 ? o.file_frames : 1000000;
    o.seconds = o.seconds > 0 ? o.seconds : 86400;
    return o;
}

/* torch.linspace in float32 (from both ends towards the middle, with a fused multiply-add), rounded with halves to even. */
static void spread_between(int64_t first, int64_t last, int64_t n, int32_t *indices) {
    float begin = (float)first, end = (float)last, step = n > 1 ? (end - begin) / (float)(n - 1) : 0;
    for (int64_t i = 0; i < n; i++) {
        float at = i < n / 2 ? fmaf(step, (float)i, begin) : fmaf(-step, (float)(n - 1 - i), end);
        int64_t index = (int64_t)rintf(at);
        indices[i] = (int32_t)(index < first ? first : index > last ? last : index);
    }
}

static void spread(int64_t last, int64_t n, int32_t *indices) {
    spread_between(0, last, n, indices);
}

int64_t video_sample(int64_t total, double file_fps, const video_options *options, int32_t *indices) {
    video_options o = resolve(options);
    if (total < FRAME_FACTOR) {
        indices[0] = 0;
        return total;
    }
    /* qwen-omni-utils rounds its own limits to multiples of 2 as well */
    double low = (double)((o.min_frames + FRAME_FACTOR - 1) / FRAME_FACTOR * FRAME_FACTOR);
    double high = (double)((o.max_frames < total ? o.max_frames : total) / FRAME_FACTOR * FRAME_FACTOR);
    double n = (double)total / file_fps * o.fps;
    n = fmin(fmin(fmax(n, low), high), (double)total);
    int64_t frames = (int64_t)floor(n / FRAME_FACTOR) * FRAME_FACTOR;
    frames = frames < FRAME_FACTOR ? FRAME_FACTOR : frames; /* max_frames 1 */
    spread(total - 1, frames, indices);
    return frames;
}

omni_status video_choose(const char *path, int64_t total, double fps, const video_options *o, int32_t *indices, int64_t *frames, int64_t *among,
                         omni_error *err) {
    int64_t first = 0, last = total - 1;
    const double length = (double)total / fps;
    if (o->from > 0) {
        first = (int64_t)ceil(fmin(o->from, length) * fps);
    }
    if (o->to > 0) {
        const int64_t end = (int64_t)floor(fmin(o->to, length) * fps);
        last = end < last ? end : last;
    }
    if ((o->from > 0 || o->to > 0) && first >= last) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: video_start and video_end leave no two frames, %lld to %lld: it has %.2f seconds, %lld frames", path,
                    (long long)first, (long long)last, length, (long long)total);
    }
    *among = last - first + 1;
    if (o->frames > 0) {
        *frames = (int64_t)rint((double)o->frames / FRAME_FACTOR) * FRAME_FACTOR;
        if (*frames < FRAME_FACTOR || *frames > *among) {
            return fail(err, OMNI_ERR_ARGUMENT, "%s: nframes must be from %d to %lld, which there are, not %lld", path, FRAME_FACTOR,
                        (long long)*among, (long long)o->frames);
        }
    } else {
        *frames = video_sample(*among, fps, o, indices);
    }
    if (*among >= FRAME_FACTOR) {
        spread_between(first, last, *frames, indices);
    }
    return OMNI_OK;
}

bool video_is_npy(const char *path) {
    size_t n = strlen(path);
    if (n >= 4 && strcmp(path + n - 4, ".npy") == 0) {
        return true;
    }
    char magic[6] = {0};
    FILE *f = fopen(path, "rbe");
    bool is = f && fread(magic, 1, sizeof magic, f) == sizeof magic && memcmp(magic, "\x93NUMPY", sizeof magic) == 0;
    if (f) {
        fclose(f);
    }
    return is;
}

static void fill(video *v, const patch_params *p, const video_options *o, int64_t height, int64_t width, int64_t total, double fps, int64_t frames) {
    v->frames = frames;
    v->file_frames = total;
    v->height = (int32_t)height;
    v->width = (int32_t)width;
    v->file_fps = fps;
    v->sample_fps = (double)frames / (double)total * fps;
    v->seconds_per_group = (double)p->temporal / o->fps;
    v->duration = (double)total / fps;
}

static omni_status check_length(const char *path, double seconds, double limit, omni_error *err) {
    if (seconds > limit) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %.1f seconds, over the limit of %g seconds", path, seconds, limit);
    }
    return OMNI_OK;
}

static int64_t file_size(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : 0;
}

/* All frames of an array, in order. */
static omni_status open_array(const video_bytes *bytes, const patch_params *p, const video_options *o, video *out, omni_error *err) {
    const char *path = bytes->name;
    npy_video a;
    TRY(budget_file(o->budget, path, (int64_t)bytes->size, err));
    TRY(npy_parse(bytes->data, bytes->size, path, &a, err));
    if (a.frames > o->file_frames) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %lld frames, over the limit of %lld", path, (long long)a.frames, (long long)o->file_frames);
    }
    TRY(check_length(path, (double)a.frames / o->fps, o->seconds, err));
    TRY(budget_frames(o->budget, path, a.width, a.height, (double)a.frames, err));
    TRY(patches_reserve(a.frames, a.height, a.width, p, o->budget, path, NULL, err));
    out->indices = malloc((size_t)a.frames * sizeof *out->indices);
    if (!out->indices) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %lld frames", path, (long long)a.frames);
    }
    patch_writer *w;
    omni_status status = patches_begin(a.frames, a.height, a.width, p, &w, err);
    if (status != OMNI_OK) {
        return fail_in(err, status, "%s", path);
    }
    size_t frame = (size_t)a.height * (size_t)a.width * 3;
    for (int64_t i = 0; status == OMNI_OK && i < a.frames; i++) {
        out->indices[i] = (int32_t)i;
        status = budget_stopped(o->budget, err);
        if (status == OMNI_OK) {
            status = patches_frame(w, a.values + (size_t)i * frame, err);
        }
    }
    if (status != OMNI_OK) {
        patches_abandon(w);
        return status;
    }
    out->sampled = true;
    fill(out, p, o, a.height, a.width, a.frames, o->fps, a.frames);
    return patches_end(w, &out->patches, err);
}

/* Pixels a frame may have so that all of them stay within the budget (Qwen2VLVideoProcessor with cap_pixels_per_frame). */
static int64_t frame_pixels(const patch_params *p, const video_options *o, int64_t frames) {
    double side = (double)p->patch * p->merge, total = (double)o->total_tokens * side * side;
    double share = floor(total * p->temporal / (double)frames), least = floor((double)p->min_pixels * 1.05);
    double most = fmax(fmin((double)p->max_pixels, share), least);
    return (int64_t)most;
}

static bool usable_rate(double fps) {
    return isfinite(fps) && fps > 1e-3 && fps < 1e5;
}

/* Frames a second: the container's average, unless the timestamps tell another story (a rate that varies). */
static double frame_rate(const video_info *info) {
    double stated = info->stated_fps, counted = info->span > 0 ? (double)info->frames / info->span : 0;
    bool differs = usable_rate(counted) && info->frames > 2 && fabs(counted / stated - 1) > 0.02;
    if (!usable_rate(stated) || differs) {
        stated = counted;
    }
    return usable_rate(stated) ? stated : 25;
}

/* One attempt on the assumption that the file has info->frames frames. */
typedef struct attempt {
    const char *path;
    video_info *info;
    const patch_params *params;
    const video_options *options;
    video *out;
    int64_t frames, among; /* sampled, and those that they are sampled from */
    double fps;
    patch_writer *writer;
    patch_cost cost;
} attempt;

static omni_status begin_frames(void *arg, int64_t height, int64_t width, omni_error *err) {
    attempt *a = arg;
    patch_params p = *a->params;
    if (!p.request) {
        p.max_pixels = frame_pixels(&p, a->options, a->frames);
    }
    TRY(patches_reserve(a->frames, height, width, &p, a->options->budget, a->path, &a->cost, err));
    omni_status status = patches_begin(a->frames, height, width, &p, &a->writer, err);
    if (status != OMNI_OK) {
        return fail_in(err, status, "%s", a->path);
    }
    fill(a->out, a->params, a->options, height, width, a->info->frames, a->fps, a->frames);
    a->out->sample_fps = (double)a->frames / (double)a->among * a->fps;
    if (a->options->frames > 0) { /* the rate asked for is the one that was reached */
        a->out->seconds_per_group = (double)a->params->temporal / a->out->sample_fps;
    }
    return OMNI_OK;
}

static omni_status take_frame(void *arg, int64_t index, const uint8_t *rgb, omni_error *err) {
    (void)index;
    return patches_frame(((attempt *)arg)->writer, rgb, err);
}

/* *decoded: as video_decode tells. */
static omni_status sample_container(const video_bytes *bytes, attempt *a, int64_t *decoded, omni_error *err) {
    const video_options *o = a->options;
    int64_t room = o->max_frames < a->info->frames ? o->max_frames : a->info->frames;
    a->out->indices = malloc((size_t)(room < FRAME_FACTOR ? FRAME_FACTOR : room) * sizeof *a->out->indices);
    if (!a->out->indices) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", a->path);
    }
    a->fps = frame_rate(a->info);
    omni_status status = video_choose(a->path, a->info->frames, a->fps, o, a->out->indices, &a->frames, &a->among, err);
    if (status != OMNI_OK) {
        return status;
    }
    const video_limits limits = {o->file_frames, o->budget};
    const video_sink sink = {a, begin_frames, take_frame};
    video_packets *packets = a->info->packets.usable ? &a->info->packets : NULL;
    status = video_decode(bytes, &limits, packets, a->out->indices, a->frames, &sink, decoded, err);
    if (status == OMNI_OK && *decoded < 0) {
        patches_abandon(a->writer);
        return OMNI_OK;
    }
    if (status == OMNI_OK && *decoded < 1) {
        status = fail(err, OMNI_ERR_FORMAT, "%s: no picture can be decoded", a->path);
    }
    if (status != OMNI_OK) {
        patches_abandon(a->writer);
        return status;
    }
    a->out->start = a->info->start;
    return patches_end(a->writer, &a->out->patches, err);
}

static omni_status sample_scanned(const video_bytes *bytes, const patch_params *p, const video_options *o, video_info *info, video *out,
                                  omni_error *err) {
    TRY(check_length(bytes->name, (double)info->frames / frame_rate(info), o->seconds, err));
    for (bool counted = false;;) {
        attempt a = {.path = bytes->name, .info = info, .params = p, .options = o, .out = out};
        int64_t decoded = 0;
        omni_status status = sample_container(bytes, &a, &decoded, err);
        if (status != OMNI_OK || decoded == info->frames || counted) {
            return status;
        }
        patches_give_back(o->budget, a.cost);
        video_free(out);
        info->packets.usable = false;
        if (decoded >= 0) { /* Some packets carry no picture or are damaged: choose again among those that do. */
            info->frames = decoded;
            counted = true;
        }
    }
}

static omni_status open_container(const video_bytes *bytes, const patch_params *p, const video_options *o, video *out, omni_error *err) {
    const video_limits limits = {o->file_frames, o->budget};
    video_info info;
    TRY(budget_file(o->budget, bytes->name, bytes->data ? (int64_t)bytes->size : file_size(bytes->name), err));
    omni_status status = video_scan(bytes, &limits, &info, err);
    if (status == OMNI_OK) {
        status = sample_scanned(bytes, p, o, &info, out, err);
    }
    video_packets_free(&info.packets);
    return status;
}

/* is_array: all bytes are in memory and start as a NumPy file. */
static omni_status open_bytes(const video_bytes *bytes, bool is_array, const patch_params *p, const video_options *options, video *out,
                              omni_error *err) {
    *out = (video){0};
    if (options && ((options->fps != 0 && !(options->fps > 0 && options->fps <= 1000)) || options->max_frames > INT32_MAX ||
                    options->file_frames > INT32_MAX || options->total_tokens > INT32_MAX)) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: cannot sample %g frames a second (above 0, at most 1000), at most %lld", bytes->name, options->fps,
                    (long long)options->max_frames);
    }
    budget own;
    budget_init(&own, NULL);
    video_options o = resolve(options);
    o.budget = o.budget ? o.budget : &own;
    omni_status status = is_array ? open_array(bytes, p, &o, out, err) : open_container(bytes, p, &o, out, err);
    if (status != OMNI_OK) {
        video_free(out);
    }
    return status;
}

/* What cannot seek is read into memory first. */
static omni_status open_stream(const char *path, const patch_params *p, const video_options *options, video *out, omni_error *err) {
    budget own, *b = options && options->budget ? options->budget : &own;
    char *data;
    size_t size;
    budget_init(&own, NULL);
    TRY(media_read(path, b, &data, &size, err));
    omni_status status = video_open_memory(data, size, strcmp(path, "-") == 0 ? "standard input" : path, p, options, out, err);
    free(data);
    budget_release(b, (int64_t)size);
    return status;
}

omni_status video_open(const char *path, const patch_params *p, const video_options *options, video *out, omni_error *err) {
    *out = (video){0};
    if (media_is_stream(path)) {
        return open_stream(path, p, options, out, err);
    }
    if (!video_is_npy(path)) {
        return open_bytes(&(video_bytes){.name = path}, false, p, options, out, err);
    }
    file_map file;
    TRY(file_map_open(path, &file, err));
    omni_status status = open_bytes(&(video_bytes){path, file.data, file.size}, true, p, options, out, err);
    file_map_close(&file);
    return status;
}

omni_status video_open_memory(const void *data, size_t size, const char *name, const patch_params *p, const video_options *options, video *out,
                              omni_error *err) {
    static const uint8_t nothing[1];
    bool is_array = size >= 6 && memcmp(data, "\x93NUMPY", 6) == 0;
    return open_bytes(&(video_bytes){name, size ? data : nothing, size}, is_array, p, options, out, err);
}

void video_free(video *v) {
    patch_set_free(&v->patches);
    free(v->indices);
    *v = (video){0};
}
