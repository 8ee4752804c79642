/* JPEG through libjpeg-turbo with its default (accurate integer) transform and smooth chroma upsampling. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "media/image_formats.h"

/* A progressive file may repeat scans without end, each costing a pass over the whole picture: this part of a pixel each. */
enum { SCAN_SHARE = 32 };

typedef struct jpeg_state {
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    const image_source *in;
    const char *name;
    omni_error *err;
    omni_status status;
    int scans; /* so far */
    image im;
    uint8_t *row; /* four channels, for CMYK */
} jpeg_state;

static void on_error(j_common_ptr info) {
    jpeg_state *s = info->client_data;
    char text[JMSG_LENGTH_MAX];
    info->err->format_message(info, text);
    s->status = fail(s->err, OMNI_ERR_FORMAT, "%s: damaged JPEG: %s", s->name, text);
    longjmp(s->back, 1);
}

static void on_message(j_common_ptr info, int level) {
    (void)info;
    (void)level;
}

static void source_begin(j_decompress_ptr info) {
    (void)info;
}

/* All of the file is in the buffer from the start: asking for more means that it was cut short. */
static boolean source_more(j_decompress_ptr info) {
    jpeg_state *s = info->client_data;
    s->status = fail(s->err, OMNI_ERR_FORMAT, "%s: damaged JPEG: the file ends in the middle of the picture", s->name);
    longjmp(s->back, 1);
}

static void source_skip(j_decompress_ptr info, long n) {
    if (n > 0) {
        if ((size_t)n > info->src->bytes_in_buffer) {
            source_more(info);
        }
        info->src->next_input_byte += n;
        info->src->bytes_in_buffer -= (size_t)n;
    }
}

static void on_progress(j_common_ptr info) {
    jpeg_state *s = info->client_data;
    const int scan = ((j_decompress_ptr)info)->input_scan_number;
    if (scan > s->scans) {
        s->scans = scan;
        s->status = budget_pixels(s->in->budget, s->name, s->im.width, s->im.height / SCAN_SHARE, s->err);
        if (s->status != OMNI_OK) {
            longjmp(s->back, 1);
        }
    }
}

/* Pillow's CMYK to RGB, of samples stored inverted as Adobe does (Pillow takes every four-channel JPEG to be so). */
static void cmyk_row(const uint8_t *in, int width, uint8_t *out) {
    for (int i = 0; i < width; i++, in += 4, out += 3) {
        int white = in[3];
        for (int c = 0; c < 3; c++) {
            int product = (255 - in[c]) * white + 128;
            out[c] = (uint8_t)(white - ((product + (product >> 8)) >> 8));
        }
    }
}

/* Bytes a pixel that libjpeg holds besides the result: a progressive file's coefficients, 16 bits a sample, up to whole blocks. */
static int coefficient_bytes(struct jpeg_decompress_struct *info) {
    double samples = 0;
    if (!jpeg_has_multiple_scans(info)) {
        return 0;
    }
    for (int i = 0; i < info->num_components; i++) {
        const jpeg_component_info *c = &info->comp_info[i];
        samples += (double)c->h_samp_factor * c->v_samp_factor / (info->max_h_samp_factor * info->max_v_samp_factor);
    }
    return (int)(2 * samples + 1);
}

static void decode(struct jpeg_decompress_struct *info, jpeg_state *s) {
    jpeg_read_header(info, TRUE);
    int channels = info->num_components;
    if (channels != 1 && channels != 3 && channels != 4) {
        s->status = fail(s->err, OMNI_ERR_UNSUPPORTED, "%s: a JPEG of %d channels (1, 3 and 4 are known)", s->name, channels);
        return;
    }
    s->status = image_allocate(info->image_width, info->image_height, coefficient_bytes(info), s->in, &s->im, s->err);
    if (s->status != OMNI_OK) {
        return;
    }
    int width = s->im.width;
    info->out_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
    if (channels != 3) {
        s->row = malloc((size_t)width * 4);
        if (!s->row) {
            s->status = fail(s->err, OMNI_ERR_MEMORY, "%s: out of memory", s->name);
            return;
        }
    }
    jpeg_start_decompress(info);
    while (info->output_scanline < info->output_height) {
        uint8_t *out = s->im.rgb + (size_t)info->output_scanline * (size_t)width * 3;
        JSAMPROW row = channels == 3 ? out : s->row;
        jpeg_read_scanlines(info, &row, 1);
        if (channels == 4) {
            cmyk_row(s->row, width, out);
        } else if (channels == 1) {
            for (int i = 0; i < width; i++) {
                memset(out + (size_t)i * 3, s->row[i], 3);
            }
        }
    }
    /* what follows the last line is not needed: the file counts as whole even without its end marker */
}

omni_status image_decode_jpeg(const image_source *in, image *out, omni_error *err) {
    struct jpeg_decompress_struct info;
    jpeg_state *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", in->name);
    }
    memset(&info, 0, sizeof info);
    s->in = in;
    s->name = in->name;
    s->err = err;
    info.err = jpeg_std_error(&s->errors);
    s->errors.error_exit = on_error;
    s->errors.emit_message = on_message;
    info.client_data = s;
    if (setjmp(s->back) == 0) {
        jpeg_create_decompress(&info);
        s->source = (struct jpeg_source_mgr){.next_input_byte = in->data,
                                             .bytes_in_buffer = in->size,
                                             .init_source = source_begin,
                                             .fill_input_buffer = source_more,
                                             .skip_input_data = source_skip,
                                             .resync_to_restart = jpeg_resync_to_restart,
                                             .term_source = source_begin};
        s->progress.progress_monitor = on_progress;
        info.src = &s->source;
        info.progress = &s->progress;
        decode(&info, s);
    }
    jpeg_destroy_decompress(&info);
    omni_status status = s->status;
    if (status == OMNI_OK) {
        *out = s->im;
    } else {
        image_free(&s->im);
    }
    free(s->row);
    free(s);
    return status;
}
