/* The events of the voice activity detector: usage: voice_events RATE THRESHOLD SILENCE_MS < mono float32 samples
 * A line an event: "start" or "stop", its position and when it was decided, in samples. */
#include <stdio.h>
#include <stdlib.h>

#include "media/voice_activity.h"

static void print_event(void *context, const voice_activity_event *e) {
    printf("%s %lld %lld\n", e->kind == SPEECH_STARTED ? "start" : "stop", (long long)e->position, (long long)e->decided);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: voice_events RATE THRESHOLD SILENCE_MS < mono float32 samples\n");
        return 2;
    }
    const voice_activity_params params = {.rate = atoi(argv[1]), .threshold = atof(argv[2]), .silence_ms = atoi(argv[3])};
    voice_activity *v = NULL;
    omni_error err;
    if (voice_activity_new(&params, &v, &err) != OMNI_OK) {
        fprintf(stderr, "voice_events: %s\n", err.text);
        return 1;
    }
    static float samples[16384];
    for (size_t n = 0; (n = fread(samples, sizeof *samples, 16384, stdin)) > 0;) {
        voice_activity_push(v, samples, n, print_event, NULL);
    }
    voice_activity_free(v);
    return 0;
}
