/* The containers that sounds and videos may come in, by the names of FFmpeg's demuxers: one list, so that a video whose pictures can be read
 * can be heard as well. All of them hold their own data: no playlists, no descriptions of streams that lie elsewhere, and no music notation
 * (MIDI, tracker modules). */
#ifndef OMNI_MEDIA_CONTAINERS_H
#define OMNI_MEDIA_CONTAINERS_H

#include <libavutil/log.h>
#include <libavutil/mem.h>

static const char media_containers[] = /* with pictures and sound */
    "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,mxf,nut,dv,rm,wtv,"
    /* pictures alone */
    "mpegvideo,h264,hevc,ivf,gif,apng,mjpeg,m4v,av1,obu,yuv4mpegpipe,vc1,"
    /* sound alone */
    "wav,w64,aiff,au,caf,mp3,aac,loas,flac,amr,wv,tta,ac3,eac3,dts,voc,nistsphere";

/* For the whole process, before anything is opened: libav prints nothing, and gets no more than this at once. A few bytes of MP4 can claim an index
 * of gigabytes; frames and indexes of honest files stay below. */
static inline void media_limit_libav(void) {
    av_log_set_level(AV_LOG_QUIET);
    av_max_alloc((size_t)512 << 20);
}

#endif
