/* For omni_fetching alone, which tests build: the port of 127.0.0.1 that OMNI_TEST_PUBLIC_PORT names counts as public; all else is asked of the real
 * function (the linker gives calls to the one here: --wrap). */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "server/fetch_address.h"

bool __real_fetch_address_is_public(const struct sockaddr *address, socklen_t size);
bool __wrap_fetch_address_is_public(const struct sockaddr *address, socklen_t size);

bool __wrap_fetch_address_is_public(const struct sockaddr *address, socklen_t size) {
    const char *port = getenv("OMNI_TEST_PUBLIC_PORT");
    struct sockaddr_in in;
    if (port && address->sa_family == AF_INET && size >= sizeof in) {
        memcpy(&in, address, sizeof in);
        if (in.sin_addr.s_addr == htonl(INADDR_LOOPBACK) && ntohs(in.sin_port) == atoi(port)) {
            return true;
        }
    }
    return __real_fetch_address_is_public(address, size);
}
