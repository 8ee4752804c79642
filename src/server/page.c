/* GET /, GET /page/NAME: the page, out of the program itself. GET /openapi.json: the description of the API. */
#include "server/page.h"

#include <string.h>

#include "server/internal.h"

static const char *type_of(const char *name) {
    static const struct {
        const char *ending, *type;
    } types[] = {{".html", "text/html; charset=utf-8"},
                 {".css", "text/css; charset=utf-8"},
                 {".js", "text/javascript; charset=utf-8"},
                 {".svg", "image/svg+xml"},
                 {".json", "application/json"}};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof *types; i++) {
        if (strcmp(dot, types[i].ending) == 0) {
            return types[i].type;
        }
    }
    return "application/octet-stream";
}

static void send_file(exchange *x, const char *name) {
    for (const page_file *f = page_files; f->name; f++) {
        if (strcmp(f->name, name) == 0) {
            /* Nothing from elsewhere and nothing inline; pictures, sounds and videos that the page itself holds are data: or blob: URLs. */
            reply_header(x, "Content-Security-Policy",
                         "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
                         "connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'");
            reply_header(x, "Referrer-Policy", "no-referrer");
            reply_header(x, "Permissions-Policy", "microphone=(self), camera=(self), geolocation=()");
            reply_header(x, "Cache-Control", "no-cache");
            reply_with(x, 200, type_of(name), f->data, f->size);
            return;
        }
    }
    reply_error(x, 404, NULL, "not_found", "the page has no such file");
}

void handle_page(server *s, exchange *x) {
    send_file(x, "index.html");
}

void handle_page_file(server *s, exchange *x) {
    send_file(x, x->path + strlen("/page/"));
}

void handle_openapi(server *s, exchange *x) {
    send_file(x, "openapi.json");
}
