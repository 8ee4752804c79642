#define _GNU_SOURCE
#include "cli/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

/* Where text goes: standard output, unless sound goes there. */
static FILE *text_output(const answer *a) {
    return a->sound_path && strcmp(a->sound_path, "-") == 0 ? stderr : stdout;
}

static bool collect(answer *a, collected *to, const char *text, size_t size) {
    if (to->size + size > to->capacity) {
        size_t capacity = 2 * (to->size + size);
        char *larger = realloc(to->text, capacity);
        if (!larger) {
            a->text_failed = true;
            return false;
        }
        to->text = larger;
        to->capacity = capacity;
    }
    if (size > 0) {
        memcpy(to->text + to->size, text, size);
    }
    to->size += size;
    return true;
}

static bool take_text(void *arg, const char *text, size_t size) {
    answer *a = arg;
    progress_clear(&a->bar);
    if (a->json) {
        return collect(a, &a->text, text, size);
    }
    if (size > 0) {
        a->last_was_newline = text[size - 1] == '\n';
    }
    FILE *to = text_output(a);
    a->text_failed = !write_text(to, text, size) || fflush(to) != 0;
    return !a->text_failed;
}

static bool take_reasoning(void *arg, const char *text, size_t size) {
    answer *a = arg;
    return collect(a, &a->reasoning, text, size);
}

static bool take_audio(void *arg, const float *samples, size_t count) {
    answer *a = arg;
    a->sound_failed = omni_sound_write(a->sound, samples, count, &a->sound_error) != OMNI_OK;
    return !a->sound_failed;
}

static bool take_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    answer *a = arg;
    return progress_show(&a->bar, what, done, total);
}

/* Characters that a terminal would obey are escaped wherever the JSON goes: its value is the same. */
static void print_json_string(FILE *to, const char *s, size_t n) {
    fputc('"', to);
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t c = 0;
        length = utf8_character(s + i, n - i, &c);
        if (c == '"' || c == '\\') {
            fprintf(to, "\\%c", (char)c);
        } else if (c == '\n') {
            fputs("\\n", to);
        } else if (length == 0) { /* a file's name may be any bytes */
            fputs("\\ufffd", to);
            length = 1;
        } else if (obeyed_by_terminals(c)) {
            fprintf(to, "\\u%04x", c);
        } else {
            fwrite(s + i, 1, length, to);
        }
    }
    fputc('"', to);
}

/* A line of its own, or an entry of the JSON's tool_calls. */
static bool take_call(void *arg, const char *name, const char *arguments) {
    answer *a = arg;
    progress_clear(&a->bar);
    char *line = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&line, &size);
    if (f && a->json) {
        fputs(a->calls.size > 0 ? ", {\"name\": " : "{\"name\": ", f);
        print_json_string(f, name, strlen(name));
        fputs(", \"arguments\": ", f);
        print_json_string(f, arguments, strlen(arguments));
        fputc('}', f);
    } else if (f) {
        fprintf(f, "%s[tool call] %s %s\n", a->last_was_newline ? "" : "\n", name, arguments);
    }
    bool ok = f && fclose(f) == 0 && (a->json ? collect(a, &a->calls, line, size) : take_text(a, line, size));
    a->text_failed = a->text_failed || !ok;
    free(line);
    return ok;
}

/* {"token", "id", "logprob", "bytes"}, OpenAI's names and llama-server's id; open: without the last brace. */
static void print_token(FILE *to, const omni_token *t, bool open) {
    fputs("{\"token\": ", to);
    print_json_string(to, t->bytes, t->size);
    fprintf(to, ", \"id\": %d, \"logprob\": %.7g, \"bytes\": [", t->id, (double)t->logprob);
    for (size_t i = 0; i < t->size; i++) {
        fprintf(to, "%s%d", i > 0 ? ", " : "", (unsigned char)t->bytes[i]);
    }
    fputs(open ? "]" : "]}", to);
}

/* An entry of the JSON's logprobs. */
static bool take_token(void *arg, const omni_token *token, const omni_token *top, size_t top_count) {
    answer *a = arg;
    char *entry = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&entry, &size);
    if (f) {
        fputs(a->tokens.size > 0 ? ", " : "", f);
        print_token(f, token, true);
        fputs(", \"top_logprobs\": [", f);
        for (size_t i = 0; i < top_count; i++) {
            fputs(i > 0 ? ", " : "", f);
            print_token(f, &top[i], false);
        }
        fputs("]}", f);
    }
    const bool ok = f && fclose(f) == 0 && collect(a, &a->tokens, entry, size);
    a->text_failed = a->text_failed || !ok;
    free(entry);
    return ok;
}

static void print_json(const answer *a, const omni_result *r) {
    static const char *const finish[] = {"stop", "length", "cancelled"};
    FILE *to = text_output(a);
    fprintf(to, "{\"text\": ");
    print_json_string(to, a->text.text, a->text.size);
    if (a->reasoning.size > 0) {
        fprintf(to, ", \"reasoning\": ");
        print_json_string(to, a->reasoning.text, a->reasoning.size);
    }
    if (a->calls.size > 0) {
        fprintf(to, ", \"tool_calls\": [%.*s]", (int)a->calls.size, a->calls.text);
    }
    if (a->with_tokens) {
        fprintf(to, ", \"logprobs\": {\"content\": [");
        fwrite(a->tokens.text ? a->tokens.text : "", 1, a->tokens.size, to);
        fprintf(to, "]}");
    }
    fprintf(to,
            ", \"finish\": \"%s\", \"prompt_tokens\": %lld, \"cached_tokens\": %lld, \"answer_tokens\": %lld, \"frames\": %lld, \"samples\": %lld, "
            "\"speech_cut\": %s, \"seed\": %llu",
            finish[r->finish], (long long)r->prompt_tokens, (long long)r->cached_tokens, (long long)r->answer_tokens, (long long)r->frames,
            (long long)r->samples, r->speech_cut ? "true" : "false", (unsigned long long)a->seed);
    fprintf(to,
            ", \"seconds\": {\"media\": %.4f, \"prompt\": %.4f, \"answer\": %.4f, \"first_text\": %.4f, \"first_audio\": %.4f, \"talker\": %.4f, "
            "\"code2wav\": %.4f}",
            r->seconds_media, r->seconds_prompt, r->seconds_answer, r->seconds_first_text, r->seconds_first_audio, r->seconds_talker,
            r->seconds_code2wav);
    if (a->sound_path) {
        fprintf(to, ", \"output\": ");
        print_json_string(to, a->sound_path, strlen(a->sound_path));
    }
    fprintf(to, "}\n");
}

/* One line when a limit ended the answer or its speech. */
static void say_cut(const omni_generate_params *p, const omni_result *r) {
    char text[96] = "", speech[96] = "";
    if (r->finish == OMNI_FINISH_LENGTH && p->max_tokens > 0 && r->answer_tokens >= p->max_tokens) {
        snprintf(text, sizeof text, "the answer after %lld tokens (--max-tokens)", (long long)r->answer_tokens);
    } else if (r->finish == OMNI_FINISH_LENGTH) {
        snprintf(text, sizeof text, "the answer after %lld tokens: the context is full (--ctx-size)", (long long)r->answer_tokens);
    }
    if (r->speech_cut) {
        snprintf(speech, sizeof speech, "the speech after %lld frames (--max-frames)", (long long)r->frames);
    }
    if (*text || *speech) {
        print_error("omni: cut short: %s%s%s\n", text, *text && *speech ? "; " : "", speech);
    }
}

static void print_timing(const char *what, double seconds, int64_t count, const char *unit) {
    print_error("omni: %16s = %10.2f ms", what, 1e3 * seconds);
    if (count > 0) {
        print_error(" / %5lld %ss (%8.2f ms per %s, %8.2f %ss per second)", (long long)count, unit, 1e3 * seconds / (double)count, unit,
                    seconds > 0 ? (double)count / seconds : 0, unit);
    }
    print_error("\n");
}

static void print_timings(const answer *a, const omni_result *r, int sample_rate) {
    print_error("omni: seed %llu, %lld tokens of the prompt were read before\n", (unsigned long long)a->seed, (long long)r->cached_tokens);
    print_timing("load time", a->load_seconds, 0, NULL);
    if (r->seconds_media > 0) {
        print_timing("media time", r->seconds_media, 0, NULL);
    }
    print_timing("prompt eval time", r->seconds_prompt, r->prompt_tokens - r->cached_tokens, "token");
    print_timing("eval time", r->seconds_answer, r->answer_tokens, "token");
    print_timing("total time", r->seconds_media + r->seconds_prompt + r->seconds_answer, 0, NULL);
    if (r->seconds_first_text > 0) {
        print_timing("first text", r->seconds_first_text, 0, NULL);
    }
    if (r->samples > 0) {
        const double seconds = (double)r->samples / sample_rate;
        print_timing("first sound", r->seconds_first_audio, 0, NULL);
        print_timing("talker", r->seconds_talker, r->frames, "frame");
        print_timing("code2wav", r->seconds_code2wav, r->frames, "frame");
        print_error("omni: %16s = %10.2f s, real-time factor %.2f\n", "sound", seconds, r->seconds_answer / seconds);
    }
}

int answer_run(answer *a, omni_engine *engine, omni_conversation *conversation, omni_generate_params *params, const char *text, int sample_rate) {
    omni_error err = {0};
    omni_result result = {0};
    a->sound = a->stream;
    a->sound_failed = a->text_failed = false;
    a->text = a->reasoning = a->calls = a->tokens = (collected){0};
    a->last_was_newline = true;
    params->on_text = take_text;
    params->on_reasoning = a->json ? take_reasoning : NULL;
    params->on_tool_call = take_call;
    params->on_progress = take_progress;
    a->with_tokens = params->logprobs && a->json && !text;
    params->on_token = a->with_tokens ? take_token : NULL;
    params->arg = a;

    /* A write that waits for its reader goes on after the signal: it is no failed one. */
    stop_work_begin(engine, conversation);
    omni_status status = a->sound_path && !a->stream ? omni_sound_open(a->sound_path, sample_rate, &a->sound, &err) : OMNI_OK;
    params->on_audio = a->sound ? take_audio : NULL;
    if (status == OMNI_OK) {
        status = text ? omni_speak(engine, text, params, &result, &err) : omni_generate(engine, conversation, params, &result, &err);
    }
    const int number = stop_work_end();
    progress_clear(&a->bar);

    if (!a->last_was_newline) { /* at once, in front of what standard error says of the answer */
        fputc('\n', text_output(a));
        a->text_failed = fflush(text_output(a)) != 0 || a->text_failed;
    }
    int exit_status = 0;
    if (a->sound && !a->stream) {
        omni_error close_error = {0};
        if (omni_sound_close(a->sound, &close_error) != OMNI_OK && !a->sound_failed) {
            a->sound_failed = true;
            a->sound_error = close_error;
        }
    }
    if (status != OMNI_OK && status != OMNI_CANCELLED) {
        exit_status = report(&err);
    } else if (a->sound_failed) {
        exit_status = report(&a->sound_error);
    } else {
        if (a->json && !a->text_failed) {
            print_json(a, &result);
        } else if (!number) {
            say_cut(params, &result);
        }
        if (a->verbose) {
            print_timings(a, &result, sample_rate);
        }
        if (a->text_failed || fflush(text_output(a)) != 0) { /* who reads a conversation through a pipe waits for the whole answer */
            print_error("omni: cannot write the answer to standard output\n");
            exit_status = 1;
        } else {
            exit_status = number ? 128 + number : 0;
        }
    }
    free(a->text.text);
    free(a->reasoning.text);
    free(a->calls.text);
    free(a->tokens.text);
    return exit_status;
}
