package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/configs"
)

func (s *session) configCommand() *cobra.Command {
	docs := command("docs", "Print docs/configuration.md", nothing, func(*cobra.Command, []string) error {
		return s.printf("%s", configs.Markdown())
	})
	docs.Hidden = true
	return group("config", "Print, check and describe the configuration", s.configPrint(), s.configValidate(), s.configSchema(), docs)
}

func (s *session) configPrint() *cobra.Command {
	var f configFlags
	return f.add(command("print", "Print the effective configuration, secrets masked", nothing, func(*cobra.Command, []string) error {
		c, err := s.config(f)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(c.Masked().Tree())
		}
		text, err := c.Masked().YAML()
		if err != nil {
			return err
		}
		return s.printf("%s", text)
	}))
}

func (s *session) configValidate() *cobra.Command {
	var f configFlags
	return f.add(command("validate", "Report every problem of the configuration", nothing, func(*cobra.Command, []string) error {
		c, err := s.config(f)
		if err != nil {
			return err
		}
		for _, missing := range c.Missing() {
			s.note("note: %v (a master and a worker need it)", missing)
		}
		path := s.configPath(f)
		if path == "" {
			path = "the configuration"
		}
		return s.changed(map[string]any{"valid": true}, nil, path+" is valid")
	}))
}

func (s *session) configSchema() *cobra.Command {
	return command("schema", "Print the JSON Schema of the configuration file", nothing, func(*cobra.Command, []string) error {
		text, err := json.MarshalIndent(configs.Schema(), "", "  ")
		if err != nil {
			return err
		}
		return s.println(string(text))
	})
}
