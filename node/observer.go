package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
)

// RunReadonlyMaster does the rounds of a master until ctx ends and writes to
// o.Out what it would do, a line each. It opens no listener and no queue and
// reads through connections that refuse to write.
func RunReadonlyMaster(ctx context.Context, cfg configs.Config, o Options, asJSON bool) error {
	log := newLog(cfg, o)
	s, err := store.Open(ctx, store.Config{URL: cfg.Postgres.URL, MaxConns: 2, Readonly: true})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := migrations.Check(ctx, s.Pool()); err != nil {
		return err
	}
	log.Info("this master only looks: it writes nothing and starts nothing")
	observer := master.Observer{
		Store: s, Policy: policy(cfg), Workers: cfg.Master.Workers, Log: log,
		Preview: scheduler.NewPreview(scheduler.Config{CatchUpRate: cfg.Master.CatchUpRate}, s),
		Tell:    func(w master.Would) error { return writeWould(o.Out, w, asJSON) },
	}
	return observer.Run(ctx)
}

func writeWould(out io.Writer, w master.Would, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(w)
	}
	text := w.At.Format("2006-01-02T15:04:05.000Z") + " would " + w.Action
	if w.Task != "" {
		text += " " + w.Task
	}
	if w.Source != "" {
		text += " source " + w.Source
	}
	if w.Run != nil {
		text += " run " + w.Run.String()
	}
	if w.DueAt != nil {
		text += " due " + w.DueAt.Format(time.RFC3339)
	}
	if w.Count > 1 {
		text += fmt.Sprintf(" and %d due times after it", w.Count-1)
	}
	if w.What != "" {
		text += ": " + strings.ReplaceAll(w.What, "\n", " ")
	}
	_, err := fmt.Fprintln(out, text)
	return err
}
